"""A large installation's data, written by COPY: what years of use leave behind, in minutes.

Half a year is spread over monthly partitions, as if the service had run all that time. Each user has a wallet with five
entries and a token bought by the second; every other token was used, has expired, and left its session and its sums of
usage. The ledger is sound: `zenzefi ledger verify` has nothing to say about it.

COPY runs in a superuser's session with session_replication_role = replica, which skips the foreign keys and the trigger
that sums each transaction's postings: with them, ten million rows would take hours. Nobody of these people can sign in.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Final, LiteralString

import psycopg
from psycopg import sql

ENTRIES_PER_USER: Final = 5
USAGE_ROWS_PER_USER: Final = 10  # on average: users of even numbers have 20, the others none
HOURS_PER_DAY: Final = 9  # of use, on each of two days

_SPAN: Final = timedelta(days=180)
_ARRIVALS: Final = timedelta(days=100)  # in which the users register, evenly
_GAP_MS: Final = 16 * 86_400_000  # between two entries of a wallet
_ROWS_PER_BLOCK: Final = 5_000
_PARTITIONED: Final = (
    "audit_log",
    "ledger_transactions",
    "ledger_postings",
    "usage_batches",
    "usage_hourly",
    "usage_daily",
)
# Type, amount, the balance after it, and the system account on the other side (migration 0004).
_ENTRIES: Final = (
    ("deposit", "100.00", "100.00", 1),
    ("purchase", "-18.00", "82.00", 2),
    ("deposit", "50.00", "132.00", 1),
    ("purchase", "-18.00", "114.00", 2),
    ("adjustment", "5.00", "119.00", 3),
)
_USER, _WALLET, _TRANSACTION, _TOKEN, _SESSION, _LOGIN, _AUDIT = range(0x100, 0x107)


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """How many users, and the instant at which the first of them came."""

    users: int
    since: datetime

    @classmethod
    def until(cls, now: datetime, *, users: int) -> "Population":
        """People of the half year before `now`."""
        return cls(users=users, since=now - _SPAN)

    def arrival_ms(self, number: int) -> int:
        """When a user registered, in Unix milliseconds."""
        return int(self.since.timestamp() * 1000) + number * int(_ARRIVALS.total_seconds() * 1000) // self.users

    def entry_ms(self, number: int, entry: int) -> int:
        """When an entry of their wallet was made."""
        return self.arrival_ms(number) + entry * _GAP_MS


def populate(dsn: str, population: Population, *, tell: Callable[[str], None]) -> None:
    """Fill an empty, migrated database as the superuser of `dsn`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in _PARTITIONED:
            connection.execute("SELECT create_month_partitions(%s::regclass, %s, 6)", [table, population.since])
        connection.execute("SET session_replication_role = replica")
        for copy, rows in _tables(population):
            _copy(connection, copy, rows, tell=tell)
        connection.execute("RESET session_replication_role")
        tell("vacuum and analyze")
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def sizes(dsn: str) -> dict[str, int]:
    """The rows of each table that the population fills, and under "bytes" the size of the database."""
    tables = ("users", "ledger_transactions", "ledger_postings", "access_tokens", "usage_hourly", "usage_daily")
    with psycopg.connect(dsn) as connection:
        counts = {
            table: connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
            for table in tables
        }
        size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return {name: row[0] for name, row in {**counts, "bytes": size}.items() if row is not None}


def _copy(
    connection: psycopg.Connection, copy: LiteralString, rows: Iterator[str], *, tell: Callable[[str], None]
) -> None:
    table, done = copy.partition(" ")[0], 0
    with connection.cursor() as cursor, cursor.copy(f"COPY {copy} FROM STDIN") as stream:
        while block := list(islice(rows, _ROWS_PER_BLOCK)):
            stream.write("".join(block))
            done += len(block)
            tell(f"{table}: {done:,} rows")


def _tables(population: Population) -> Iterable[tuple[LiteralString, Iterator[str]]]:
    """What is copied, in order: a table with its columns, and its rows as lines of COPY's text format."""
    numbers = range(population.users)
    users_of_tokens = range(0, population.users, 2)
    return (
        (
            "users (id, email, username, password_hash, referral_code, referred_by, created_at, updated_at)",
            (_user(population, number) for number in numbers),
        ),
        ("logins (id, user_id, created_at)", (_login(population, number) for number in numbers)),
        (
            "ledger_accounts (id, kind, user_id, balance, entry_count, created_at)",
            (_wallet(population, number) for number in numbers),
        ),
        (
            "ledger_transactions (id, transaction_type, description, created_at)",
            (_transaction(population, number, entry) for entry in range(ENTRIES_PER_USER) for number in numbers),
        ),
        (
            "ledger_postings (transaction_id, account_id, transaction_type, amount, entry_no, balance_after)",
            (_postings(population, number, entry) for entry in range(ENTRIES_PER_USER) for number in numbers),
        ),
        (
            """access_tokens (id, user_id, token_hash, token_hint, duration_hours, scope, price,
                purchase_transaction_id, created_at, activated_at, expires_at, ended_at, end_reason)""",
            (_token(population, number) for number in numbers),
        ),
        (
            "audit_log (id, at, actor_kind, actor_user_id, action, resource_type, resource_id, after, ip, request_id)",
            (_audit(population, number) for number in numbers),
        ),
        (
            """gateway_sessions (id, token_id, device_hash, device_hint, started_at, last_activity, ended_at,
                request_count, bytes_in, bytes_out)""",
            (_session(population, number) for number in users_of_tokens),
        ),
        (
            "usage_hourly (user_id, hour, token_id, outcome, requests, bytes_in, bytes_out)",
            chain.from_iterable(_hours(population, number) for number in users_of_tokens),
        ),
        (
            "usage_daily (user_id, day, token_id, outcome, requests, bytes_in, bytes_out)",
            chain.from_iterable(_days(population, number) for number in users_of_tokens),
        ),
    )


def _user(population: Population, number: int) -> str:
    at_ms = population.arrival_ms(number)
    # Every tenth user was brought by the one nine before.
    referrer = _id(_USER, population.arrival_ms(number - 9), number - 9) if number % 10 == 9 else "\\N"
    name, at = f"person{number}", _instant(at_ms)
    return f"{_id(_USER, at_ms, number)}\t{name}@example.com\t{name}\t!\tBENCH{number}\t{referrer}\t{at}\t{at}\n"


def _login(population: Population, number: int) -> str:
    at_ms = population.arrival_ms(number)
    return f"{_id(_LOGIN, at_ms, number)}\t{_id(_USER, at_ms, number)}\t{_instant(at_ms)}\n"


def _wallet(population: Population, number: int) -> str:
    at_ms = population.arrival_ms(number)
    wallet, user = _id(_WALLET, at_ms, number), _id(_USER, at_ms, number)
    return f"{wallet}\twallet\t{user}\t{_ENTRIES[-1][2]}\t{ENTRIES_PER_USER}\t{_instant(at_ms)}\n"


def _transaction(population: Population, number: int, entry: int) -> str:
    at_ms, kind = population.entry_ms(number, entry), _ENTRIES[entry][0]
    return f"{_id(_TRANSACTION, at_ms, number)}\t{kind}\tBenchmark {kind}\t{_instant(at_ms)}\n"


def _postings(population: Population, number: int, entry: int) -> str:
    transaction = _id(_TRANSACTION, population.entry_ms(number, entry), number)
    wallet = _id(_WALLET, population.arrival_ms(number), number)
    kind, amount, balance, counterpart = _ENTRIES[entry]
    counter_amount = amount[1:] if amount.startswith("-") else f"-{amount}"
    return (
        f"{transaction}\t{wallet}\t{kind}\t{amount}\t{entry + 1}\t{balance}\n"
        f"{transaction}\t00000000-0000-7000-8000-{counterpart:012}\t{kind}\t{counter_amount}\t\\N\t\\N\n"
    )


def _token(population: Population, number: int) -> str:
    bought_ms = population.entry_ms(number, 1)
    token_hash = hashlib.sha256(b"token %d" % number).hexdigest()
    terms = f"\\\\x{token_hash}\tznz_{number % 10_000:04}\t24\tfull\t18.00"
    purchase, bought = _id(_TRANSACTION, bought_ms, number), _instant(bought_ms)
    used, over = _instant(bought_ms + 3_600_000), _instant(bought_ms + 25 * 3_600_000)
    state = "\\N\t\\N\t\\N\t\\N" if number % 2 else f"{used}\t{over}\t{over}\texpired"
    user = _id(_USER, population.arrival_ms(number), number)
    return f"{_id(_TOKEN, bought_ms, number)}\t{user}\t{terms}\t{purchase}\t{bought}\t{state}\n"


def _audit(population: Population, number: int) -> str:
    at_ms = population.entry_ms(number, 1)
    user, token = _id(_USER, population.arrival_ms(number), number), _id(_TOKEN, at_ms, number)
    after = '{"token_hint": "znz_0000", "duration_hours": 24, "scope": "full", "price": "18.00"}'
    return (
        f"{_id(_AUDIT, at_ms, number)}\t{_instant(at_ms)}\tuser\t{user}\ttoken.purchase\taccess_token\t{token}\t{after}"
        f"\t192.0.2.{number % 250}\tbench-{number}\n"
    )


def _session(population: Population, number: int) -> str:
    bought_ms = population.entry_ms(number, 1)
    started, ended = _instant(bought_ms + 3_600_000), _instant(bought_ms + 20 * 3_600_000)
    token, device = _id(_TOKEN, bought_ms, number), hashlib.sha256(b"device %d" % number).hexdigest()
    use = f"{1000 * HOURS_PER_DAY * 2}\t0\t{47_000 * HOURS_PER_DAY * 2}"
    return f"{_id(_SESSION, bought_ms, number)}\t{token}\t\\\\x{device}\t…0001\t{started}\t{ended}\t{ended}\t{use}\n"


def _hours(population: Population, number: int) -> Iterator[str]:
    user, token, day = _used(population, number)
    for at in (day, day + timedelta(days=1)):
        for hour in range(8, 8 + HOURS_PER_DAY):
            yield f"{user}\t{at:%Y-%m-%d} {hour:02}:00:00+00\t{token}\tserved\t1000\t0\t47000\n"


def _days(population: Population, number: int) -> Iterator[str]:
    user, token, day = _used(population, number)
    sums = f"{1000 * HOURS_PER_DAY}\t0\t{47_000 * HOURS_PER_DAY}"
    for at in (day, day + timedelta(days=1)):
        yield f"{user}\t{at:%Y-%m-%d}\t{token}\tserved\t{sums}\n"


def _used(population: Population, number: int) -> tuple[str, str, datetime]:
    bought_ms = population.entry_ms(number, 1)
    user = _id(_USER, population.arrival_ms(number), number)
    return user, _id(_TOKEN, bought_ms, number), datetime.fromtimestamp(bought_ms // 1000, UTC)


def _id(kind: int, at_ms: int, number: int) -> str:
    """A UUIDv7 of that instant; kind and number stand where others have randomness."""
    time = f"{at_ms:012x}"
    return f"{time[:8]}-{time[8:]}-7{kind:03x}-8000-{number:012x}"


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
