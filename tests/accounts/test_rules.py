"""The rules of email addresses, usernames and passwords, and the strings that the slice makes."""

from hypothesis import example, given
from hypothesis import strategies as st

from zenzefi.accounts import referral_codes, refresh_tokens
from zenzefi.accounts.rules import account_problems, normalise_email, normalise_password, password_problems

LOCAL_PART = st.from_regex(r"[a-z0-9_+-]{1,20}(\.[a-z0-9_+-]{1,20}){0,2}", fullmatch=True)
DOMAIN = st.from_regex(r"([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\.){1,3}[a-z]{2,10}", fullmatch=True)
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=300)


@given(local_part=LOCAL_PART, domain=DOMAIN)
def test_plain_email_addresses_are_accepted(local_part: str, domain: str) -> None:
    email = normalise_email(f" {local_part}@{domain} ".upper())
    assert account_problems(email=email, username="ada", password="correct horse") == {}


@given(email=ANY_TEXT, username=ANY_TEXT, password=ANY_TEXT)
def test_what_is_accepted_is_plain(email: str, username: str, password: str) -> None:
    problems = account_problems(email=email, username=username, password=password)
    if "email" not in problems:
        assert email.isascii()
        assert email.isprintable()
        assert email == normalise_email(email)
    if "username" not in problems:
        assert username.isascii()
        assert 3 <= len(username) <= 50
    if "password" not in problems:
        assert 8 <= len(password) <= 256


@given(email=ANY_TEXT)
def test_a_normalised_email_address_is_normal(email: str) -> None:
    once = normalise_email(email)
    if "email" not in account_problems(email=once, username="ada", password="correct horse"):
        assert normalise_email(once) == once == once.lower()


@given(password=st.text(min_size=8, max_size=256))
def test_a_normalised_password_is_normal(password: str) -> None:
    once = normalise_password(password)
    assert normalise_password(once) == once


def test_common_passwords_are_refused_in_any_case() -> None:
    for password in ("password", "Passw0rd", "QWERTYUIOP", "letmein123", "11111111", "iloveyou", "trustno1"):
        assert password_problems(password, email="ada@example.com", username="ada"), password
    assert not password_problems("vKq9-tulip-ferry", email="ada@example.com", username="ada")


def test_minted_refresh_tokens_are_well_formed_and_differ() -> None:
    tokens = {refresh_tokens.mint() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(refresh_tokens.is_well_formed(token) and len(token) == refresh_tokens.LENGTH for token in tokens)
    assert len({refresh_tokens.hash_token(token) for token in tokens}) == 1000


def test_minted_referral_codes_are_normal_and_survive_being_typed() -> None:
    codes = {referral_codes.mint() for _ in range(1000)}
    assert len(codes) > 990
    for code in codes:
        assert referral_codes.normalise(code) == referral_codes.normalise(f" {code.lower()}") == code


@given(text=ANY_TEXT)
@example("ßßßß")  # SSSSSSSS in upper case
def test_other_texts_are_neither_tokens_nor_codes(text: str) -> None:
    assert referral_codes.normalise(text) is None or len(text.strip()) == 8
    assert not refresh_tokens.is_well_formed(text) or text.startswith("znr_")
