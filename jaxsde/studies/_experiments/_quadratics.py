"""Claims about quadratics: SignSGD's phases, stationary laws, heavy tails, schedules."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import theory
from ...estimation import fit_slope, stationary
from ...optimizers import SGD, Adam, AdamW, RMSprop, RMSpropW, SignSGD
from ...problems import Gaussian, Problem, Quadratic, StudentT
from ...simulation import Samples, simulate
from .._experiment import Scale, Study
from .._panels import Curve, Panel, curve

_HESSIAN = (1.0, 2.0)


def phases_study(scale: Scale) -> Study:
    """SignSGD's three phases (Lemmas 3.4 and 3.5)."""
    rate, steps = 1e-3, 6000
    opt, x0 = SignSGD(rate), jnp.array([2.0, 2.0])
    columns = "sigma,phase 1 ends,x[0] leaves it at,loss / its bound,gap / decrease,final loss,s.e.,SDE,bound"
    rows: list[tuple[str | float, ...]] = []
    panels = []
    for i, sigma in enumerate((0.1, 0.5, 2.0)):
        problem = Problem(Quadratic(_HESSIAN), Gaussian(sigma))
        run: dict[str, Any] = dict(steps=steps, every=60, seeds=scale.pick(4000, 20_000), progress=scale.progress)
        chain = simulate(opt.chain(problem), x0, key=scale.key(2 * i), **run)
        sde = simulate(opt.sde(problem), x0, key=scale.key(2 * i + 1), **run)
        ts = np.asarray(chain.ts, float)
        bound = theory.loss_bound(opt, problem, x0, ts)
        first = np.asarray(theory.loss_bound(opt, problem, x0, ts, phase=1).loss, float)
        # Where the means of the coordinates are in the phase |Y| > 3/2, in which signal dominates.
        signal = np.abs(np.asarray(chain["x"].mean, float)) * _HESSIAN / (np.sqrt(2) * sigma) > 1.5
        left = ts[np.argmin(signal[:, 0])] if not signal[:, 0].all() else np.nan
        inside = signal.all(axis=1)
        ours, theirs = (np.asarray(r["loss"].mean, float) for r in (chain, sde))
        held = float(np.max(ours[inside] / first[inside])) if inside.any() else "never inside"
        gap = np.mean(np.abs(ours - theirs)) / (ours[0] - ours.min())
        end = float(theory.phase_1_time(problem, x0))
        error = float(np.asarray(chain["loss"].stderr)[-1])
        rows.append((sigma, end, float(left), held, gap, ours[-1], error, theirs[-1], float(bound.loss[-1])))
        scale.report(f"sigma {sigma:g}: loss {ours[-1]:.3g}, SDE {theirs[-1]:.3g}")
        curves = [curve("optimizer", chain), curve("SDE", sde, style="--")]
        curves += [
            Curve("bound", ts, np.asarray(bound.loss, float), style=":", of="bound"),
            Curve("bound of Phase 1, while in it", ts, np.where(inside, first, np.nan), style=":"),
        ]
        panels.append(Panel(f"$\\sigma$ = {sigma:g}", "time", "loss", curves))
    notes = [
        "phase 1 ends: by when the loss without noise is at its minimum at the latest, sqrt(2 S_0 / mu); where the mean of "
        "x[0] leaves |Y| > 3/2 is measured (0: it starts outside)",
        "loss / its bound: the mean loss over Phase 1's bound, at most, while all coordinates are in that phase",
        "bound: of the final loss, for the SDE; the larger the noise, the sooner the decay is exponential, at a rate ~ 1/sigma",
    ]
    gap = max(float(row[4]) for row in rows)
    held = max(row[3] for row in rows if not isinstance(row[3], str))
    bound = "holds" if held <= 1 + 1e-3 else f"is exceeded by {100 * (held - 1):.2g} %"
    finding = f"The SDE follows SignSGD's mean loss within {100 * gap:.2g} % of the decrease; the bound of phase 1 {bound}"
    return Study("SignSGD's three phases", finding, tuple(columns.split(",")), rows, panels, notes)


def stationary_study(scale: Scale) -> Study:
    """Stationary laws of all optimizers: simulated optimizer, simulated SDE, closed form."""
    rate, sigma = 0.01, 2.0
    problem = Problem(Quadratic(_HESSIAN), Gaussian(sigma))
    decay: dict[str, Any] = dict(weight_decay=0.5)
    averaged: dict[str, Any] = dict(decay=0.99, initial_scale=sigma**2)
    everyone = [
        SGD(rate), SignSGD(rate), RMSprop(rate, **averaged), RMSpropW(rate, **averaged, **decay), Adam(rate, 0.9, 0.99),
        AdamW(rate, 0.9, 0.99, **decay),
    ]  # fmt: skip
    chosen = scale.pick([everyone[1], everyone[5]], everyone)
    seeds = scale.pick(500, 4000)
    header = ("optimizer", "coordinate", "optimizer's variance", "s.e.", "SDE", "s.e.", "theory", "SDE off %", "theory off %")
    rows: list[tuple[str | float, ...]] = []
    found: list[np.ndarray] = []
    for i, opt in enumerate(chosen):
        x0 = jnp.zeros(2)
        common = dict(observe={}, seeds=seeds, progress=scale.progress)
        chain = stationary(opt.chain(problem), x0, key=scale.key(50 + 2 * i), **common)
        sde = stationary(opt.sde(problem), x0, key=scale.key(51 + 2 * i), substeps=4, **common)
        form = np.diag(np.asarray(theory.stationary(opt, problem).covariance, float))
        ours, theirs = (np.diag(law.covariance) for law in (chain, sde))
        errors = [np.diag(law.stderr.covariance) for law in (chain, sde)]
        name = type(opt).__name__
        for j in range(2):
            off = 100 * (theirs[j] / ours[j] - 1), 100 * (form[j] / ours[j] - 1)
            rows.append((name, f"x[{j}]", ours[j], errors[0][j], theirs[j], errors[1][j], form[j], *off))
        found.append(np.stack([ours, theirs, *errors]) / form)
        scale.report(f"{name}: SDE off by {100 * np.max(np.abs(theirs / ours - 1)):.2g} %")
    ratios = np.array(found)  # (optimizers, ways and their errors, coordinates)
    places = np.arange(2.0 * len(chosen))
    curves = [
        Curve(way, places + 0.2 * k, ratios[:, k].ravel(), 5 * ratios[:, 2 + k].ravel())
        for k, way in enumerate(("optimizer", "SDE"))
    ]
    names = tuple(f"{type(opt).__name__}, x[{j}]" for opt in chosen for j in range(2))
    panel = Panel("Stationary variances over the closed form", "", "ratio", curves, yscale="linear", bars=True, names=names)
    notes = [
        "the SDE is that of its solver with 4 substeps; the closed forms of adaptive methods take noise to dominate; error "
        "bars: 5 standard errors"
    ]
    off, form_off = (max(abs(float(row[i])) for row in rows) for i in (-2, -1))
    finding = (
        f"The SDEs' stationary variances are within {off:.2g} % of the optimizers', the closed forms within {form_off:.2g} %"
    )
    return Study(f"Stationary laws on a quadratic, sigma = {sigma:g}", finding, header, rows, [panel], notes)


def tails_study(scale: Scale) -> Study:
    """Under noise without variance SGD's mean loss is infinite; SignSGD converges and has an SDE (Theorem 3.2)."""
    rate, steps = 0.01, scale.pick(1000, 4000)
    header = ("nu", "optimizer", "median loss", "mean loss", "s.e.", "largest", "SDE's mean", "closed form")
    rows: list[tuple[str | float, ...]] = []
    panels = []
    for i, nu in enumerate((1.0, 2.0)):
        problem = Problem(Quadratic(_HESSIAN), StudentT(nu, 1.0))
        curves = []
        for j, opt in enumerate((SGD(rate), SignSGD(rate), Adam(rate, 0.9, 0.999))):
            run: dict[str, Any] = dict(steps=steps, every=steps // 50, seeds=scale.pick(2000, 10_000), progress=scale.progress)
            run["observe"] = {"loss": problem.loss}
            name = type(opt).__name__
            samples = simulate(opt.chain(problem), jnp.ones(2), key=scale.key(100 + 10 * i + j), reduce=Samples(), **run)
            loss = np.asarray(samples["loss"].values, float)
            sde, form = "none", "none"
            if isinstance(opt, SignSGD):
                continuous = simulate(opt.sde(problem), jnp.ones(2), key=scale.key(150 + i), **run)
                sde = f"{float(continuous['loss'].mean[-1]):.3g}"
                form = f"{float(theory.stationary(opt, problem).loss):.3g}"
                curves.append(curve("SignSGD's SDE, mean", continuous, style="--", of="SDE"))
            ts = np.asarray(samples.ts, float)
            curves += [
                Curve(f"{name}, mean", ts, loss.mean(axis=1), of=name),
                Curve(f"{name}, median", ts, np.median(loss, axis=1), style=":", of=name),
            ]
            median, mean = float(np.median(loss[-1])), float(loss[-1].mean())
            # Of SGD's mean there is none: an infinite mean has no standard error.
            error = "none" if isinstance(opt, SGD) else f"{float(loss[-1].std(ddof=1) / np.sqrt(loss.shape[1])):.2g}"
            rows.append((nu, name, median, mean, error, float(loss.max()), sde, form))
            scale.report(f"nu {nu:g}, {name}: median {median:.3g}, mean {mean:.3g}")
        panels.append(Panel(f"Student-t noise, $\\nu$ = {nu:g}", "time", "loss", curves))
    notes = [
        "for nu = 1 and 2 the noise has no variance: neither has SGD, whose mean loss is infinite (what is printed is that of "
        "the seeds run), nor an SDE; Adam's SDE does not exist either"
    ]
    # SGD, SignSGD and Adam, by the heavier of the two tails.
    sgd, sign = rows[0], rows[1]
    finding = (
        f"Under Cauchy noise SignSGD's mean loss settles at {sign[3]:.2g}, its SDE's at {float(sign[6]):.2g}; the largest of "
        f"SGD's reaches {sgd[5]:.1e}"
    )
    return Study("Heavy tails: Student-t noise without variance", finding, header, rows, panels, notes)


def schedules_study(scale: Scale) -> Study:
    """Schedules eta_t = (t + 1)^-nu: which converge, and how fast."""
    rate, steps = 0.05, scale.pick(4000, 16_000)
    problem = Problem(Quadratic([1.0]), Gaussian(1.0))
    header = ("optimizer", "nu", "converges", "loss", "s.e.", "closed form", "off %", "exponent", "theory's")
    rows: list[tuple[str | float, ...]] = []
    panels = []
    for i, kind in enumerate((SGD, SignSGD)):
        curves = []
        for j, power in enumerate((0.0, 0.5, 1.0, 2.0)):
            opt = kind(theory.power_schedule(power, rate), reference_rate=rate)
            run = simulate(
                opt.chain(problem), jnp.array([0.5]), steps=steps, every=steps // 80, seeds=scale.pick(500, 4000),
                key=scale.key(200 + 10 * i + j), progress=scale.progress,
            )  # fmt: skip
            ts, loss = np.asarray(run.ts, float), np.asarray(run["loss"].mean, float)
            form = np.asarray(theory.schedule_moments(opt, problem, jnp.array([0.5]), ts).loss, float)
            verdict = theory.power_verdict(kind(rate), problem, power)
            late = slice(len(ts) // 4, None)
            found = fit_slope(np.log(ts[late] + 1), np.log(loss[late]))
            error = float(np.asarray(run["loss"].stderr)[-1])
            said = f"{-verdict.exponent:.3g}" if verdict.converges else "none"
            off = 100 * (loss[-1] / form[-1] - 1)
            converges = "yes" if verdict.converges else "no"
            rows.append((kind.__name__, power, converges, loss[-1], error, form[-1], off, found, said))
            curves += [
                Curve(f"$\\nu$ = {power:g}", ts + 1, loss),
                Curve(f"$\\nu$ = {power:g}, closed form", ts + 1, form, style=":", of=f"$\\nu$ = {power:g}"),
            ]
        scale.report(f"{kind.__name__}: done")
        panels.append(Panel(kind.__name__, "time + 1", "loss", curves, xscale="log"))
    notes = [
        "exponent: the slope of log loss against log(t + 1) over the last three quarters; SignSGD's closed form is Phase 3's"
    ]
    off = {kind: max(abs(float(row[6])) for row in rows if row[0] == kind) for kind in ("SGD", "SignSGD")}
    finding = (
        f"Mean losses end within {off['SGD']:.2g} % (SGD) and {off['SignSGD']:.2g} % (SignSGD) of the closed forms, whether "
        "the schedule converges or stops too soon"
    )
    return Study("Schedules (t + 1)^-nu", finding, header, rows, panels, notes)
