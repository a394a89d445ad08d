"""The operators' commands: what they show, what they change, and that the audit log says it was an operator."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner

from tests.admin.superusers import audit_rows
from tests.cli.conftest import Finished, RunCli, assert_one_clear_line
from tests.support.people import PASSWORD, Person
from tests.support.servers import Cluster
from zenzefi.accounts.moderation import get_user
from zenzefi.accounts.service import create_superuser
from zenzefi.audit.sealing import seal_audit_log
from zenzefi.cli import main
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings

Run = Callable[..., "asyncio.Future[Finished]"]


@pytest.fixture
def run(run_cli: RunCli, env: dict[str, str]) -> Run:
    """`await run("user", "show", "ada")`, beside the application of this process."""

    def start(*arguments: str, typed: str = "") -> "asyncio.Future[Finished]":
        return asyncio.ensure_future(asyncio.to_thread(run_cli, *arguments, env=env, typed=typed))

    return start


async def test_a_user_is_shown_and_credited(ctx: Context, run: Run, person: Person) -> None:
    credited = await run("user", "credit", person.email.upper(), "12.50", "--reason", "an outage")
    assert credited.returncode == 0, credited.stderr
    assert credited.stdout.startswith(f"{person.username} has 12.50 ZNC now (transaction ")
    assert await person.balance() == "12.50"
    (entry,) = (await person.get("/api/v1/currency/transactions"))["items"]
    assert (entry["transaction_type"], entry["description"]) == ("adjustment", "an outage")
    (row,) = await audit_rows(ctx, action="wallet.adjust", resource_id=person.user_id)
    assert (row["actor_kind"], row["actor_user_id"]) == ("operator", None)
    by_name, by_id = await asyncio.gather(
        run("user", "show", person.username.upper(), "--json"), run("user", "show", person.user_id)
    )
    shown = json.loads(by_name.stdout)
    assert (shown["id"], shown["email"], shown["balance"]) == (person.user_id, person.email, "12.50")
    assert "password" not in by_name.stdout
    assert f"balance        {shown['balance']}" in by_id.stdout


async def test_an_id_means_its_user_and_not_a_username_of_the_same_form(ctx: Context, person: Person) -> None:
    async with ctx.transaction() as conn:
        await conn.execute(
            """
            INSERT INTO users (id, email, username, password_hash, referral_code, created_at, updated_at)
            VALUES ($1, $2, $3, '-', $2, now(), now())
            """,
            ctx.new_id(),
            f"{uuid4().hex}@example.com",
            person.user_id,
        )
    assert (await get_user(ctx, reference=person.user_id)).username == person.username


async def test_a_token_is_inspected_and_revoked(ctx: Context, run: Run, person: Person) -> None:
    await person.top_up("19.00")
    bought, unused = await person.buy_token(24), await person.buy_token(1)
    inspected = await run("token", "inspect", "-", "--json", typed=bought["token"] + "\n")
    shown = json.loads(inspected.stdout)
    assert (shown["id"], shown["user_id"], shown["end_reason"]) == (bought["id"], person.user_id, None)
    assert bought["token"] not in inspected.stdout
    revoked, refunded = await asyncio.gather(
        run("token", "revoke", bought["id"]), run("token", "revoke", unused["id"], "--refund")
    )
    assert revoked.stdout == "The token has ended; 0.00 ZNC went back to its owner.\n", revoked.stderr
    assert refunded.stdout == "The token has ended; 1.00 ZNC went back to its owner.\n", refunded.stderr
    assert await person.balance() == "1.00"
    again = await run("token", "revoke", bought["id"])
    assert_one_clear_line(again, "was revoked")
    (row,) = await audit_rows(ctx, action="token.revoke", resource_id=bought["id"])
    assert row["actor_kind"] == "operator"


@pytest.mark.parametrize(
    ("amount", "reason", "part"),
    [
        ("0.00", "x", "0.01"),
        ("-1.00", "x", "No such option"),
        ("1.001", "x", "two decimals"),
        ("NaN", "x", "two decimals"),
        ("1.00", " ", "say why"),
    ],
)
def test_a_bad_credit_is_wrong_usage(amount: str, reason: str, part: str) -> None:
    result = CliRunner().invoke(main, ["user", "credit", "ada", amount, "--reason", reason])
    assert result.exit_code == 2
    assert part in result.output


async def test_who_and_what_does_not_exist_is_told(run: Run) -> None:
    nobody = str(UUID(int=1))
    no_user, no_token = await asyncio.gather(
        run("user", "credit", nobody, "1.00", "--reason", "x"), run("token", "revoke", "znz_nonsense")
    )
    assert_one_clear_line(no_user, nobody)
    assert_one_clear_line(no_token, "No token")


async def test_the_ledger_is_verified_and_a_fault_is_exit_code_1(
    ctx: Context, run: Run, run_cli: RunCli, env: dict[str, str], person: Person, cluster: Cluster, fresh_database: str
) -> None:
    await person.top_up("5.00")
    sound = await run("ledger", "verify")
    assert (sound.returncode, sound.stdout.startswith("sound: ")) == (0, True), sound
    connection = await cluster.connect(fresh_database)
    await connection.execute("SET session_replication_role = replica")
    account = UUID(int=7)
    await connection.execute(
        """
        INSERT INTO ledger_accounts (id, kind, user_id, balance, entry_count, created_at)
        VALUES ($1, 'wallet', $1, 5, 0, now())
        """,
        account,
    )
    await connection.close()
    broken = env | {"POSTGRES_DB": fresh_database}
    text, document = await asyncio.gather(
        asyncio.to_thread(run_cli, "ledger", "verify", env=broken),
        asyncio.to_thread(run_cli, "ledger", "verify", "--json", env=broken),
    )
    assert (text.returncode, document.returncode) == (1, 1), text.stderr
    assert f"wallets_equal_their_postings\t{account}\t" in text.stdout
    assert "NOT SOUND, 1 faults" in text.stdout
    report = json.loads(document.stdout)
    assert (report["sound"], report["faults"][0]["subject"]) == (False, str(account))


async def test_the_audit_log_is_verified_and_an_altered_row_is_named(
    settings: Settings, run_cli: RunCli, env: dict[str, str], cluster: Cluster, fresh_database: str
) -> None:
    async with open_context(replace(settings, postgres_db=fresh_database)) as ctx:
        await create_superuser(ctx, email="root@example.com", username="root", password=PASSWORD)
        assert await seal_audit_log(ctx) == 1
    variables = env | {"POSTGRES_DB": fresh_database}
    sound = await asyncio.to_thread(run_cli, "audit", "verify", "--json", env=variables)
    report = json.loads(sound.stdout)
    assert (sound.returncode, report["sound"], report["sealed_rows"]) == (0, True, 1)
    connection = await cluster.connect(fresh_database)
    altered = await connection.fetchval("UPDATE audit_log SET actor_kind = 'system' RETURNING id")
    await connection.close()
    broken = await asyncio.to_thread(run_cli, "audit", "verify", "--anchor", report["head"], env=variables)
    assert broken.returncode == 1
    assert broken.stdout.splitlines()[0].startswith(f"altered\t{altered}\t")
    assert broken.stdout.splitlines()[1].startswith("NOT SOUND, 1 faults: 1 rows sealed, 0 wait for a seal, head 1:")
