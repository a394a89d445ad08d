"""What can go wrong with a backup; ``exit_code`` is what the command line ends with."""

from typing import ClassVar

from zenzefi.errors import NotFound, ZenzefiError


class BackupError(ZenzefiError):
    """The backup did not succeed"""

    status, code = 500, "backup_failed"
    exit_code: ClassVar[int] = 1


class NoRepository(BackupError):
    """Backups are not set up: there is no bucket, or no key to encrypt for"""

    status, code = 409, "no_backup_repository"
    exit_code = 10


class Locked(BackupError):
    """Another backup, verification or pruning is running"""

    status, code = 409, "backup_running"
    exit_code = 11


class WrongKey(BackupError):
    """The key cannot open this backup"""

    status, code = 409, "backup_wrong_key"
    exit_code = 12


class BackupNotFound(BackupError, NotFound):
    """There is no such backup"""

    status, code = 404, "backup_not_found"


class BackupDamaged(BackupError):
    """What is stored is not what was backed up"""

    code = "backup_damaged"


class DumpFailed(BackupError):
    """pg_dump did not write a whole dump"""

    code = "backup_dump_failed"


class UploadFailed(BackupError):
    """The object store did not take the backup"""

    code = "backup_upload_failed"


class CopyFailed(BackupError):
    """The backup is stored, and its copy at the second destination is not"""

    code = "backup_copy_failed"


class Superseded(BackupError):
    """A later run began before this one could publish its backup"""

    status, code = 409, "backup_superseded"


class RestoreFailed(BackupError):
    """The server did not take the restored data, which says nothing about the backup"""

    code = "backup_restore_failed"


class VerificationFailed(BackupError):
    """The backup was restored, and is not what was backed up"""

    code = "backup_verification_failed"
