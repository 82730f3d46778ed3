"""The report of an evaluation as one web page beside its media. No torch, no network."""

from dcgrid.eval.report.build_page import player_script, write_report

__all__ = ["player_script", "write_report"]
