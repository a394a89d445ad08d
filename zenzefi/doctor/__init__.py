"""`zenzefi doctor`: looks at each dependency as this installation would use it, and says how to mend what is wrong."""

from zenzefi.doctor.examination import Role, examine
from zenzefi.doctor.findings import Finding, Verdict, worst_of

__all__ = ["Finding", "Role", "Verdict", "examine", "worst_of"]
