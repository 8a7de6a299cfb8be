"""What pictures look like: titles that say the finding, and colours that stay the same and can be told apart."""

import itertools

import jax.numpy as jnp
import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest

import jaxsde as js
from jaxsde.estimation import Distance
from jaxsde.estimation._weak_error import fit_order
from jaxsde.reporting import _laws, _style, _weak_error
from jaxsde.studies import Curve, Panel, Study

MODELS = ("optimizer", "SDE", "theory", "bound", "second order", "malladi", "injected noise")
OPTIMIZERS = ("SGD", "SignSGD", "RMSprop", "Adam", "AdamW")

# What the cones of a protanope and of a deuteranope make of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN_BY = {
    "anyone": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.fixture(scope="module")
def comparison():
    problem = js.Problem(js.Quadratic([1.0]), js.Gaussian(1.0))
    return js.compare(js.SGD(0.1), problem, jnp.ones(1), steps=40, seeds=80, substeps=1, progress=False)


def lab(color, seen):
    """CIE Lab, in which distances are those that people see."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(seen) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.asarray(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("viewers", SEEN_BY)
@pytest.mark.parametrize("things", [MODELS, OPTIMIZERS], ids=["models", "optimizers"])
def test_anybody_tells_the_colours_apart(things, viewers):
    """A difference of 2.3 can just be seen side by side; lines apart from each other need several times that."""
    seen = {thing: lab(color, SEEN_BY[viewers]) for thing, color in js.reporting.colors(things).items()}
    for (one, a), (other, b) in itertools.combinations(seen.items(), 2):
        assert np.linalg.norm(a - b) > 12, (one, other)


def test_figures_of_ones_own_can_have_the_same_look(comparison):
    with matplotlib.rc_context(js.reporting.screen_style()):
        own = matplotlib.figure.Figure().subplots()
    color = js.reporting.colors(("optimizer", "SDE"))
    assert [own.plot([0, 1])[0].get_color() for _ in color] == list(color.values())
    ours = js.reporting.plot(comparison)
    assert [line.get_color() for line in ours.get_lines()[:2]] == list(color.values())
    assert own.xaxis.label.get_size() == ours.xaxis.label.get_size()


def test_the_look_of_screens_leaves_no_grid_on_paper():
    with matplotlib.rc_context(js.reporting.screen_style()):
        assert matplotlib.rcParams["axes.grid"]
        with js.reporting.paper_style():
            assert not matplotlib.rcParams["axes.grid"]


def test_things_keep_their_colours_and_never_share_one():
    alone = {thing: js.reporting.colors([thing])[thing] for thing in (*MODELS, *OPTIMIZERS)}
    together = js.reporting.colors(["something new", *MODELS])
    assert all(together[thing] == alone[thing] for thing in MODELS)
    assert len(set(together.values())) == len(together)
    assert js.reporting.colors(["SignSGD, Phase 3"])["SignSGD, Phase 3"] == alone["SignSGD"]
    both = js.reporting.colors(["SignSGD, Cauchy noise", "SignSGD"])
    assert both["SignSGD"] == alone["SignSGD"] != both["SignSGD, Cauchy noise"]


def test_an_optimizer_looks_the_same_in_a_comparison_and_in_a_study(comparison):
    line = js.reporting.plot(comparison).lines[0]
    study = Study(
        "", "", (), [], [Panel("", "", "", [Curve("b", *np.ones((2, 3))), Curve("a", *np.ones((2, 3)), of="optimizer")])], []
    )
    assert js.reporting.plot_study(study).axes[0].lines[1].get_color() == line.get_color()


def test_the_title_is_the_finding_and_axes_of_ones_own_get_none(comparison):
    ax = js.reporting.plot(comparison)
    title = ax.figure.get_suptitle()
    assert title.replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ") == js.reporting.verdict(comparison)[0]
    assert ax.get_title(loc="left").replace("\n", " ") == comparison.title
    own = matplotlib.figure.Figure().subplots()
    assert js.reporting.plot(comparison, ax=own) is own
    assert own.get_title() == own.get_title(loc="left") == own.figure.get_suptitle() == ""
    assert own.get_xlabel() and own.get_ylabel() and own.get_legend()


def test_a_title_stays_within_its_picture():
    with _style.figure(8, 5, "The SDE follows the optimizer's loss, and here come more words, " * 4) as made:
        made.subplots()
    made.draw_without_rendering()
    box = made._suptitle.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= made.bbox.x1 and box.y1 <= made.bbox.y1


def test_a_figure_for_a_paper_has_the_size_of_its_column(comparison, tmp_path):
    for columns, width in ((1, 3.25), (2, 6.75)):
        with js.reporting.paper_style(columns, height=2.0):
            ax = matplotlib.figure.Figure().subplots()
            js.reporting.plot(comparison, ax=ax)
            ax.figure.savefig(tmp_path / "loss.pdf")
        assert ax.figure.get_size_inches().tolist() == [width, 2.0]
        sizes = {text.get_fontsize() for text in (ax.xaxis.label, ax.yaxis.label, *ax.get_legend().get_texts())}
        assert sizes == {7.0, 8.0}
        assert ax.lines[0].get_linewidth() == 1.0
        content = (tmp_path / "loss.pdf").read_bytes()
        assert b"/MediaBox [ 0 0 %d %d ]" % (72 * width, 144) in content and b"/Type3" not in content
    with pytest.raises(ValueError, match="columns must be 1 or 2, got 3"):
        js.reporting.paper_style(3)
    with pytest.raises(ValueError, match="height must be a positive number of inches, got 0"):
        js.reporting.paper_style(height=0)


def test_a_panel_alone(comparison):
    panel = Panel("one", "t", "y", [Curve("a", *np.ones((2, 3))), Curve("b", *np.ones((2, 3)), np.ones(3))])
    own = matplotlib.figure.Figure().subplots()
    assert js.reporting.plot_panel(panel, ax=own) is own and [line.get_label() for line in own.lines] == ["a", "b"]
    assert js.reporting.plot_panel(panel).get_title() == "one"


def test_a_panel_of_things_with_names():
    panel = Panel("one", "", "y", [Curve("a", *np.ones((2, 3)), np.ones(3))], yscale="linear", bars=True, names=("u", "v"))
    ax = js.reporting.plot_panel(panel)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["u", "v"]


@pytest.mark.parametrize("limits", [(0.55, 1.02), (1.6, 2.3), (0.9, 9.5), (0.3, 40.0), (1e-4, 1e3)])
def test_the_labels_of_a_logarithmic_axis_do_not_run_into_each_other(limits):
    ax = matplotlib.figure.Figure(figsize=(4, 3)).subplots()
    ax.set(xscale="log", xlim=limits)
    _style.tidy(ax)
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels(which="both") if label.get_text()]
    seen = sorted((box.x0, box.x1) for box in boxes if ax.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1 + 1)
    assert len(seen) >= 2 and all(a[1] < b[0] for a, b in itertools.pairwise(seen))


def test_laws_are_apart_by_the_distance_that_is_furthest_beyond_chance(monkeypatch):
    near, far = Distance(0.004, 0.001, 0.01), Distance(0.03, 0.002, 0.005)
    wide = Distance(0.05, 0.01, 0.1)  # larger than the others, and no more than chance
    found = [("x[0]: SDE from optimizer", near, near), ("loss: SDE from optimizer", wide, wide)]
    monkeypatch.setattr(_laws, "_distances", lambda laws, exact: found)
    assert js.reporting.laws_verdict({}) == "The laws differ by no more than chance: Kolmogorov distances are below 0.1"
    found.append(("x[1]: SDE from optimizer", far, near))
    assert js.reporting.laws_verdict({}) == "x[1]: SDE from optimizer: the Kolmogorov distance is 0.03 ± 0.002, chance 0.005"
    found.clear()
    assert js.reporting.laws_verdict({}) == ""


def test_the_order_in_a_title_is_that_at_the_smallest_learning_rates():
    rates = np.array([0.4, 0.2, 0.1])
    error = np.array([3.0, 2.0, 1.0])
    said = _weak_error._finding("loss", fit_order(rates, error, 1e-3 * error))
    assert said.startswith("The SDE's error of E loss falls with order 1.00 ± 0.004 ")
    flips = np.array([3.0, 2.0, -1.0])  # which leaves no order between the last two
    assert "falls with order nan" not in _weak_error._finding("loss", fit_order(rates, flips, 1e-3 * np.abs(flips)))
    assert _weak_error._finding("loss", fit_order(rates, 1e-3 * error, 1 + error)).endswith("does not show above the noise")


def test_a_picture_of_noise_says_how_large_it_is():
    """The gradient of norm 2, and noise of variance 1/4 in each of four coordinates."""
    problem = js.Problem(js.Quadratic(jnp.ones(4)), js.Gaussian(0.5))
    report = js.noise_report(problem, jnp.ones(4), draws=4096, progress=False)
    ratio = report.whole.signal_to_noise
    assert abs(ratio - 2) < 6 * 2 / np.sqrt(2 * 4 * 4096)
    title = js.reporting.plot_noise(report).get_suptitle().replace("\n", " ")
    assert title.startswith(f"The gradient is {ratio:.2g} times as large as its noise; its tail index reads ")
    still = js.Problem(js.Quadratic(jnp.ones(4)), js.Gaussian(0.0))
    silent = js.noise_report(still, jnp.ones(4), progress=False)
    assert js.reporting.plot_noise(silent).get_suptitle() == "There is no gradient noise here"
