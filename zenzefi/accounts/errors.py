"""What can go wrong with accounts and logins."""

from zenzefi.errors import Conflict, Forbidden, Unauthenticated, ZenzefiError


class EmailTaken(Conflict):
    """An account with this email address exists already"""

    code = "email_taken"


class UsernameTaken(Conflict):
    """This username is taken"""

    code = "username_taken"


class UnknownReferralCode(ZenzefiError):
    """There is no such referral code"""

    status, code = 422, "unknown_referral_code"


class InvalidCredentials(Unauthenticated):
    """The email address or the password is wrong"""

    code = "invalid_credentials"


class InvalidRefreshToken(Unauthenticated):
    """The refresh token is not valid any more"""

    code = "invalid_refresh_token"


class WrongCurrentPassword(Forbidden):
    """The current password is wrong"""

    code = "wrong_current_password"


class OwnAccount(Conflict):
    """Nobody may do this to their own account"""

    code = "own_account"
