"""Tables, pictures and files of results."""

from ._advice import advice_text as advice_text
from ._comparison import plot as plot, save as save, table as table
from ._laws import laws_table as laws_table, laws_verdict as laws_verdict, plot_laws as plot_laws, save_laws as save_laws
from ._mixing import plot_mixing as plot_mixing
from ._multilevel import multilevel_table as multilevel_table
from ._noise import noise_table as noise_table, plot_noise as plot_noise, plot_noise_path as plot_noise_path
from ._stationary import stationary_table as stationary_table
from ._study import (
    plot_panel as plot_panel,
    plot_study as plot_study,
    save_study as save_study,
    study_document as study_document,
    study_table as study_table,
)
from ._style import colors as colors, paper_style as paper_style, screen_style as screen_style
from ._verification import (
    verification_document as verification_document,
    verification_line as verification_line,
    verification_summary as verification_summary,
    verification_table as verification_table,
)
from ._weak_error import plot_weak_error as plot_weak_error, weak_error_table as weak_error_table
from ._words import verdict as verdict
