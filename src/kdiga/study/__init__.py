"""Fair comparisons: many runs that share a teacher, a student, data and a threat model, in one folder."""

from kdiga.study.execute import Watch, open_board, report_study, run_study
from kdiga.study.plan import Study, load_study

__all__ = ["Study", "Watch", "load_study", "open_board", "report_study", "run_study"]
