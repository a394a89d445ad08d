"""Referral bonuses: held at the first large purchase, paid once it is final, taken back by what is refunded."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from tests.admin.superusers import audit_rows, make_superuser
from tests.support.people import PASSWORD, Person, register
from tests.support.plans import PLAN_MODES, filled_database, plan_of
from tests.support.servers import Cluster
from zenzefi.access import referral_bonuses
from zenzefi.access import service as access
from zenzefi.access.referral_queries import lock_due_bonus
from zenzefi.access.referral_rules import bonus_of
from zenzefi.accounts.referral_queries import get_totals, select_referred_users
from zenzefi.context import Context
from zenzefi.wallet import service as wallet

REFERRALS = "/api/v1/users/me/referrals"
PRO_BUNDLE = "00000000-0000-7000-8000-000000000102"  # 10 tokens, 153.00 together, 15.30 each


async def referred_by(referrer: Person) -> Person:
    """Somebody who registered with the referrer's code, and has money."""
    code = (await referrer.get(REFERRALS))["referral_code"]
    newcomer = await register(referrer.client, ref=code)
    await newcomer.top_up("1000.00")
    return newcomer


async def buy_bundle(person: Person) -> list[Any]:
    status, bought = await person.request("POST", f"/api/v1/bundles/{PRO_BUNDLE}/purchase")
    assert status == 201, bought
    tokens: list[Any] = bought["tokens"]
    return tokens


async def refund(person: Person, token: Any) -> None:
    status, problem = await person.request("DELETE", f"/api/v1/tokens/{token['id']}")
    assert status == 200, problem


async def held_by(ctx: Context, person: Person) -> tuple[str, Decimal] | None:
    """The state and the amount of the bonus for this person's purchase."""
    async with ctx.connection() as conn:
        row = await conn.fetchrow(
            "SELECT state, amount FROM referral_bonuses WHERE referred_user_id = $1", UUID(person.user_id)
        )
    return None if row is None else (row["state"], row["amount"])


async def assert_the_escrow_holds_what_is_held(ctx: Context) -> None:
    async with ctx.connection() as conn:
        escrow = await conn.fetchval(
            """
            SELECT coalesce(sum(amount), 0) FROM ledger_postings
            INNER JOIN ledger_accounts AS account ON account.id = account_id WHERE account.code = 'bonuses'
            """
        )
        held = await conn.fetchval("SELECT coalesce(sum(amount), 0) FROM referral_bonuses WHERE state = 'held'")
    assert escrow == held
    assert (await wallet.verify(ctx)).is_sound


async def test_the_bonus_is_held_until_the_token_is_used_and_then_paid_once(ctx: Context, person: Person) -> None:
    newcomer = await referred_by(person)
    token = await newcomer.buy_token(720)
    assert await held_by(ctx, newcomer) == ("held", Decimal("30.00"))
    await referral_bonuses.pay_due(ctx)
    assert await person.balance() == "0.00"
    await assert_the_escrow_holds_what_is_held(ctx)
    await access.activate(ctx, token_id=UUID(token["id"]))
    await asyncio.gather(*(referral_bonuses.pay_due(ctx) for _ in range(5)))
    assert await person.balance() == "30.00"
    (entry,) = (await person.get("/api/v1/currency/transactions"))["items"]
    assert (entry["transaction_type"], entry["amount"]) == ("referral_bonus", "30.00")
    await newcomer.buy_token(720)
    assert await held_by(ctx, newcomer) == ("paid", Decimal("30.00"))
    page = await person.get(REFERRALS)
    assert (page["total_referrals"], page["qualifying_referrals"], page["total_bonus_earned"]) == (1, 1, "30.00")
    (held,) = await audit_rows(ctx, action="referral.hold", resource_id=newcomer.user_id)
    (paid,) = await audit_rows(ctx, action="referral.pay_out", resource_id=newcomer.user_id)
    assert (str(held["actor_user_id"]), paid["actor_kind"]) == (newcomer.user_id, "system")
    await assert_the_escrow_holds_what_is_held(ctx)


async def test_a_refund_takes_the_bonus_back_for_good(ctx: Context, person: Person) -> None:
    newcomer = await referred_by(person)
    await refund(newcomer, await newcomer.buy_token(720))
    assert await held_by(ctx, newcomer) == ("taken_back", Decimal("0.00"))
    token = await newcomer.buy_token(720)  # not the first any more
    await access.activate(ctx, token_id=UUID(token["id"]))
    await referral_bonuses.pay_due(ctx)
    assert await person.balance() == "0.00"
    page = await person.get(REFERRALS)
    assert (page["qualifying_referrals"], page["total_bonus_earned"]) == (0, "0.00")
    assert page["referred_users"][0]["qualified"] is False
    await assert_the_escrow_holds_what_is_held(ctx)


async def test_of_a_bundle_the_bonus_is_for_what_was_kept(ctx: Context, person: Person) -> None:
    newcomer = await referred_by(person)
    tokens = await buy_bundle(newcomer)
    assert await held_by(ctx, newcomer) == ("held", Decimal("15.30"))
    await asyncio.gather(*(refund(newcomer, token) for token in tokens[:3]))
    assert await held_by(ctx, newcomer) == ("held", Decimal("10.71"))
    for token in tokens[3:]:
        await referral_bonuses.pay_due(ctx)
        assert await person.balance() == "0.00"
        await access.activate(ctx, token_id=UUID(token["id"]))
    await referral_bonuses.pay_due(ctx)
    assert await person.balance() == "10.71"
    assert await newcomer.balance() == "892.90"
    await assert_the_escrow_holds_what_is_held(ctx)


async def test_a_bundle_of_which_little_is_kept_earns_nothing(ctx: Context, person: Person) -> None:
    newcomer = await referred_by(person)
    tokens = await buy_bundle(newcomer)
    for token in tokens[:4]:
        await refund(newcomer, token)
    assert await held_by(ctx, newcomer) == ("taken_back", Decimal("0.00"))  # 91.80 are left
    for token in tokens[4:]:
        await refund(newcomer, token)
    assert await newcomer.balance() == "1000.00"
    await assert_the_escrow_holds_what_is_held(ctx)


async def test_a_purchase_up_to_100_is_not_large_and_only_one_of_parallel_ones_is_the_first(
    ctx: Context, person: Person
) -> None:
    newcomer = await referred_by(person)
    await newcomer.buy_token(168)
    assert await held_by(ctx, newcomer) is None
    await asyncio.gather(*(newcomer.buy_token(720) for _ in range(3)))
    assert await held_by(ctx, newcomer) == ("held", Decimal("30.00"))
    assert len(await audit_rows(ctx, action="referral.hold", resource_id=newcomer.user_id)) == 1
    await assert_the_escrow_holds_what_is_held(ctx)


async def test_a_revocation_makes_the_purchase_final_and_a_banned_referrer_waits(
    ctx: Context, client: aiohttp.ClientSession, person: Person
) -> None:
    newcomer, superuser = await referred_by(person), await make_superuser(ctx, client)
    token = await newcomer.buy_token(720)
    assert (await superuser.request("DELETE", f"/api/v1/admin/tokens/{token['id']}"))[0] == 200
    flags = f"/api/v1/admin/users/{person.user_id}"
    assert (await superuser.request("PATCH", flags, json={"is_active": False}))[0] == 200
    await referral_bonuses.pay_due(ctx)
    assert await held_by(ctx, newcomer) == ("held", Decimal("30.00"))
    assert (await superuser.request("PATCH", flags, json={"is_active": True}))[0] == 200
    await referral_bonuses.pay_due(ctx)
    assert await held_by(ctx, newcomer) == ("paid", Decimal("30.00"))
    assert await wallet.get_balance(ctx, user_id=UUID(person.user_id)) == Decimal("30.00")


async def test_nobody_brings_themselves_and_nobody_rewrites_who_brought_whom(ctx: Context, person: Person) -> None:
    newcomer = await referred_by(person)
    code = (await newcomer.get(REFERRALS))["referral_code"]
    # An account cannot be given a referrer later on, which is what a ring would take.
    assert (await person.request("PATCH", "/api/v1/users/me", json={"referral_code": code}))[0] == 422
    assert (await person.request("PATCH", "/api/v1/users/me", json={"referred_by": newcomer.user_id}))[0] == 422
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with ctx.transaction() as conn:
            await conn.execute(
                "UPDATE users SET referred_by = $2 WHERE id = $1", UUID(person.user_id), UUID(newcomer.user_id)
            )
    with pytest.raises(asyncpg.CheckViolationError):
        async with ctx.transaction() as conn:
            await conn.execute(
                """
                INSERT INTO users
                    (id, email, username, password_hash, referral_code, referred_by, created_at, updated_at)
                VALUES ($1, 'self@example.com', 'self', '-', 'SELF', $1, now(), now())
                """,
                ctx.new_id(),
            )
    account = {"email": "x@example.com", "username": "someone", "password": PASSWORD}
    async with person.client.post("/api/v1/auth/register?ref=AAAAAAAA", json=account) as response:
        assert (response.status, (await response.json())["code"]) == (422, "unknown_referral_code")


async def test_the_referred_are_listed_page_by_page_without_their_addresses(person: Person) -> None:
    newcomers = [await referred_by(person) for _ in range(3)]
    await newcomers[1].buy_token(720)
    first = await person.get(f"{REFERRALS}?limit=2")
    second = await person.get(f"{REFERRALS}?limit=2&cursor={first['next_cursor']}")
    listed = first["referred_users"] + second["referred_users"]
    assert [(each["username"], each["qualified"]) for each in listed] == [
        (newcomers[2].username, False),
        (newcomers[1].username, True),
        (newcomers[0].username, False),
    ]
    assert second["next_cursor"] is None
    assert "@" not in str(first)
    assert (first["total_referrals"], first["qualifying_referrals"]) == (3, 1)
    code = first["referral_code"]
    assert first["referral_link"] == f"http://127.0.0.1:8000/api/v1/auth/register?ref={code}"
    # What one's own friends brought is nobody else's business.
    assert (await newcomers[0].get(REFERRALS))["referred_users"] == []
    for query in ("limit=0", "cursor=MQ", "user_id=1"):
        assert (await person.request("GET", f"{REFERRALS}?{query}"))[0] == 422


async def test_lists_and_the_sweep_are_served_by_indices(cluster: Cluster, fresh_database: str) -> None:
    users = """
        INSERT INTO users (id, email, username, password_hash, referral_code, referred_by, created_at, updated_at)
        SELECT lpad(to_hex(number), 32, '0')::uuid, number, number, '-', number,
               lpad(to_hex(number % 400 + 1), 32, '0')::uuid, now(), now()
        FROM generate_series(100, 20000) AS number
    """
    referrals = """
        INSERT INTO referral_bonuses
        SELECT id, referred_by, id, 1, CASE WHEN id::text LIKE '%0' THEN 'held' ELSE 'paid' END, now(),
               CASE WHEN id::text LIKE '%0' THEN NULL ELSE now() END
        FROM users
    """
    async with filled_database(cluster, fresh_database, users, referrals) as conn:
        # The one whom the totals are of.
        await conn.execute(
            """
            INSERT INTO users (id, email, username, password_hash, referral_code, created_at, updated_at)
            VALUES ($1, 'a', 'a', '-', 'a', now(), now())
            """,
            UUID(int=1),
        )
        for mode in PLAN_MODES:
            for before in (UUID(int=2**128 - 1), UUID(int=500)):
                plan = await plan_of(
                    conn,
                    mode,
                    lambda: select_referred_users(conn, user_id=UUID(int=1), before=before, limit=21),  # noqa: B023
                )
                assert "users_referred_by_idx" in plan, plan
                assert "Seq Scan" not in plan, plan
            plan = await plan_of(conn, mode, lambda: get_totals(conn, user_id=UUID(int=1)))
            assert "Seq Scan" not in plan, plan
            plan = await plan_of(conn, mode, lambda: lock_due_bonus(conn, after=UUID(int=0)))
            assert "referral_bonuses_held_idx" in plan, plan


@pytest.mark.parametrize(
    ("kept", "bonus"),
    [("0.00", "0.00"), ("100.00", "0.00"), ("100.01", "10.00"), ("153.00", "15.30"), ("107.19", "10.71")],
)
def test_the_bonus_is_a_tenth_of_a_large_purchase_rounded_down(kept: str, bonus: str) -> None:
    assert bonus_of(Decimal(kept)) == Decimal(bonus)
