"""Files for other programs, verified against the eager model."""

from sartor.export.model import FORMATS, TOLERANCE, ExportReport, export

__all__ = ["FORMATS", "TOLERANCE", "ExportReport", "export"]
