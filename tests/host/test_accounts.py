"""Charges are taken to the byte, and each is given back once; every uid finds its guarantee."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhost.core.accounts import NEWCOMERS, Account, Accounts, Charge
from shmhost.core.board import NoBoard
from shmhost.core.given_lines import GivenLines
from shmhost.core.lines import Lines
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.resources import Totals
from shmhost.core.shares import AHEAD, GUARANTEES, UNLIMITED
from shmhost.core.window import STEP, Span, Window
from shmprotocol.errors import QuotaExceeded

ROOT, HOST, ALICE, BOB, CAROL = 0, 990, 1000, 1001, 1002
TOTAL = 100 * GUARANTEES
GUARANTEE = 100
ALONE = TOTAL - NEWCOMERS * GUARANTEE  # for a user without others


def accounts_of(total: int = TOTAL, *privileged: int) -> Accounts:
    return Accounts(Totals(total), privileged or (ROOT,))


def client_of(accounts: Accounts, uid: int) -> Account:
    """Return the account of a uid that is connected."""
    account = accounts.of(uid)
    account.connect(Peer(uid, uid))
    return account


def test_charge_is_taken_to_the_byte_and_given_back_once() -> None:
    root = accounts_of(100).of(ROOT)
    charge = root.charge(60)
    with pytest.raises(QuotaExceeded, match="60 of 100"):
        root.charge(41)
    root.charge(40).release()
    charge.release()
    charge.release()
    assert root.bytes.used == root.bytes.pool.used == 0


def test_refusal_takes_nothing_and_says_what_to_do() -> None:
    root = accounts_of(100).of(ROOT)
    with pytest.raises(QuotaExceeded, match=r"^101 bytes .* 0 of 100 .* larger --budget$"):
        root.charge(101)
    assert root.bytes.used == 0
    assert root.charge(100).size == root.bytes.used == 100
    with pytest.raises(QuotaExceeded):
        root.charge(1)
    assert root.charge(0).size == 0


def test_charge_grows_to_the_limit_and_stays_what_it_was_beyond() -> None:
    root = accounts_of(100).of(ROOT)
    charge, _other = root.charge(10), root.charge(20)
    charge.grow(80)
    assert (charge.size, root.bytes.used) == (80, 100)
    with pytest.raises(QuotaExceeded, match="1 bytes are over"):
        charge.grow(81)
    charge.shrink(30)
    assert (charge.size, root.bytes.used) == (30, 50)


def test_total_that_was_lowered_refuses_until_enough_is_given_back() -> None:
    accounts = accounts_of(100)
    root = accounts.of(ROOT)
    first, _second = root.charge(60), root.charge(20)
    accounts.bytes.total = 50
    with pytest.raises(QuotaExceeded, match="80 of 50"):
        root.charge(1)
    first.release()
    assert root.charge(30).size == 30


@pytest.mark.parametrize("total", [100, 2**63, UNLIMITED])
def test_total_is_exact_for_a_privileged_uid(total: int) -> None:
    root = accounts_of(total).of(ROOT)
    charge = root.charge(total)
    with pytest.raises(QuotaExceeded, match=f"^1 bytes .* {total} of {total}"):
        root.charge(1)
    charge.release()
    with pytest.raises(QuotaExceeded):
        root.charge(total + 1)
    assert root.charge(total).size == total


def test_user_that_is_alone_may_have_nine_tenths_to_the_byte() -> None:
    alice = client_of(accounts_of(), ALICE)
    assert TOTAL * 9 // 10 < ALONE
    with pytest.raises(QuotaExceeded, match=rf"uid {ALICE}, which has 0: of {TOTAL}, {TOTAL} are free"):
        alice.charge(ALONE + 1)
    alice.charge(ALONE)
    with pytest.raises(QuotaExceeded, match="share"):
        alice.charge(1)


def test_every_newcomer_finds_its_guarantee_whatever_the_first_one_took() -> None:
    accounts = accounts_of()
    client_of(accounts, ALICE).charge(ALONE)
    for uid in range(2000, 2000 + NEWCOMERS):
        newcomer = client_of(accounts, uid)
        newcomer.charge(GUARANTEE)
        with pytest.raises(QuotaExceeded, match=f"uid {uid}"):
            newcomer.charge(1)
    assert accounts.bytes.used == TOTAL


def test_second_user_leaves_the_first_one_its_guarantee_to_the_byte() -> None:
    accounts = accounts_of()
    alice, bob = client_of(accounts, ALICE), client_of(accounts, BOB)
    alice.charge(GUARANTEE // 2)
    limit = TOTAL - GUARANTEE - (NEWCOMERS - 1) * GUARANTEE  # Alice, and those who may still come
    with pytest.raises(QuotaExceeded):
        bob.charge(limit + 1)
    bob.charge(limit)
    alice.charge(GUARANTEE // 2)
    with pytest.raises(QuotaExceeded):
        alice.charge(1)


def test_privileged_uid_has_all_that_others_have_not_booked() -> None:
    accounts = accounts_of(TOTAL, ROOT, HOST)
    client_of(accounts, ALICE).charge(ALONE - 10)
    accounts.of(HOST).charge(TOTAL - ALONE + 10)
    assert accounts.bytes.used == TOTAL


def test_privileged_uid_leaves_those_who_are_here_their_guarantee() -> None:
    accounts = accounts_of()
    alice = client_of(accounts, ALICE)
    with pytest.raises(QuotaExceeded, match="others are guaranteed theirs"):
        accounts.of(ROOT).charge(TOTAL - GUARANTEE + 1)
    accounts.of(ROOT).charge(TOTAL - GUARANTEE)
    alice.charge(GUARANTEE)


def test_account_ends_with_what_it_had_and_promises_nothing_then() -> None:
    accounts = accounts_of()
    before = accounts.bytes.booked
    charge = accounts.of(ALICE).charge(10)
    accounts.of(ALICE).connect(Peer(1, 1))
    assert accounts.bytes.booked == before + GUARANTEE
    charge.release()
    assert {account.uid for account in accounts} == {ROOT, ALICE}
    accounts.of(ALICE).disconnect()
    assert {account.uid for account in accounts} == {ROOT}
    assert accounts.bytes.booked == before


def test_charge_takes_no_bytes_when_no_descriptor_is_left() -> None:
    root = Accounts(Totals(100, files=3)).of(ROOT)
    charge = root.charge(10, 2)
    with pytest.raises(QuotaExceeded, match=r"2 descriptors of the host .* LimitNOFILE="):
        root.charge(10, 2)
    assert root.bytes.used == 10
    charge.close_file()
    charge.close_file()
    assert root.charge(10, 2).files == 2


def test_connections_leave_descriptors_to_privileged_uids() -> None:
    """However many connect: whoever may repair a host gets in."""
    files = 10 * GUARANTEES
    accounts = Accounts(Totals(100, files=files, own_files=20))
    alice, count = accounts.of(ALICE), 0
    with pytest.raises(QuotaExceeded, match="descriptors"):
        while True:
            alice.connect(Peer(1, 1))
            count += 1
    assert 2 * count == files - 20 - (NEWCOMERS + 1) * 10 == accounts.files.used
    for _ in range(5):
        accounts.of(ROOT).connect(Peer(1, 1))


def test_charge_moves_to_another_account_even_if_that_is_full() -> None:
    accounts = accounts_of()
    alice, bob = accounts.of(ALICE), accounts.of(BOB)
    charge = alice.charge(3000, 1)
    bob.charge(2000)
    charge.move(bob)
    assert (alice.bytes.used, alice.files.used) == (0, 0)
    assert (bob.bytes.used, bob.files.used) == (5000, 1)
    assert ALICE not in {account.uid for account in accounts}
    charge.release()
    assert (bob.bytes.used, accounts.bytes.used) == (2000, 2000)


def test_account_that_bears_more_than_its_share_gets_no_leases_until_it_is_less() -> None:
    accounts = accounts_of()
    alice, bob = client_of(accounts, ALICE), client_of(accounts, BOB)
    limit = TOTAL - GUARANTEE - (NEWCOMERS - 1) * GUARANTEE
    charge = alice.charge(limit)
    charge.move(bob)
    bob.leases.take(1)
    more = alice.charge(GUARANTEE)
    more.move(bob)
    with pytest.raises(QuotaExceeded, match=f"uid {BOB} gets .* keeps {limit + GUARANTEE} bytes"):
        bob.leases.take(1)
    alice.leases.take(1)
    more.release()
    bob.leases.take(1)
    charge.move(alice)
    assert bob.borne == 0
    assert alice.borne == limit
    charge.release()
    assert alice.borne == alice.bytes.used == 0


def test_uid_that_is_refused_a_connection_leaves_no_account() -> None:
    accounts = Accounts(Totals(100, files=1))
    with pytest.raises(QuotaExceeded):
        accounts.of(ALICE).connect(Peer(1, 1))
    assert {account.uid for account in accounts} == {ROOT}


def test_guarantee_comes_later_if_there_was_no_room_for_it() -> None:
    """A uid that comes when all is taken has what is left, and a guarantee once there is room for one."""
    accounts = accounts_of(TOTAL)
    charge = accounts.of(ROOT).charge(TOTAL - 50)
    alice = client_of(accounts, ALICE)
    with pytest.raises(QuotaExceeded):
        alice.charge(51)
    charge.release()
    alice.charge(GUARANTEE // 2 + 1)
    with pytest.raises(QuotaExceeded):
        alice.charge(TOTAL)
    assert accounts.bytes.booked == GUARANTEE


STEPS = st.lists(
    st.tuples(st.sampled_from([ROOT, ALICE, BOB, CAROL]), st.integers(0, 3000), st.integers(0, 5))
)


@given(STEPS)
def test_books_balance_whatever_is_taken_and_given_back(steps: list[tuple[int, int, int]]) -> None:
    accounts, living = accounts_of(), dict[int, Charge]()
    for uid, size, number in steps:
        if number in living:
            charge = living.pop(number)
            charge.release()
            charge.release()
        else:
            take(accounts, uid, size, living, number)
        check(accounts, living)


def take(accounts: Accounts, uid: int, size: int, living: dict[int, Charge], number: int) -> None:
    before = sum(charge.size for charge in living.values() if charge.account.uid == uid)
    fits = accounts.of(uid).bytes.fits(size)
    try:
        living[number] = accounts.of(uid).charge(size)
    except QuotaExceeded:
        assert not fits
        assert before + size > GUARANTEE or not accounts.of(uid).bytes.guarantee
    else:
        assert fits


def check(accounts: Accounts, living: dict[int, Charge]) -> None:
    used = dict[int, int]()
    for charge in living.values():
        used[charge.account.uid] = used.get(charge.account.uid, 0) + charge.size
    here: dict[int, Account] = {account.uid: account for account in accounts}
    assert {uid: size for uid, size in used.items() if size} == {
        uid: account.bytes.used for uid, account in here.items() if account.bytes.used
    }
    assert accounts.bytes.used == sum(used.values()) <= accounts.bytes.booked <= TOTAL
    assert accounts.bytes.booked == sum(
        max(account.bytes.guarantee, account.bytes.used) for account in here.values()
    )


def test_privileged_uid_connects_when_it_has_taken_all_descriptors_itself() -> None:
    accounts = Accounts(Totals(1 << 40, files=128, own_files=32))
    root = accounts.of(ROOT)
    with pytest.raises(QuotaExceeded, match="LimitNOFILE="):
        for _ in range(128):
            root.charge(0, 1)
    assert root.files.used == 96
    for _ in range(8):
        root.connect(Peer(1, 1))
    with pytest.raises(QuotaExceeded, match="LimitNOFILE="):
        root.connect(Peer(1, 1))


def new_region(accounts: Accounts, uid: int, line: int = 0) -> Region:
    window = Window(1 << 40, STEP)
    region = Region(1, Peer(uid, uid), 1, 1, Span(window.base, STEP), window, accounts.of(uid).take(1, 1))
    region.line = line
    return region


def test_line_of_the_board_is_charged_to_the_owner_of_the_latest_region_of_its_name() -> None:
    accounts, lines, board = accounts_of(), GivenLines(), ThreeLines()
    older, region = new_region(accounts, ALICE), new_region(accounts, BOB)
    older.line = lines.assign(board, older, None, accounts)
    assert (accounts.of(ALICE).lines.used, older.line) == (1, 1)
    assert lines.assign(board, region, older, accounts) == older.line
    assert (accounts.of(ALICE).lines.used, accounts.of(BOB).lines.used) == (0, 1)
    assert not board.release(older.line)
    assert board.release(older.line)
    lines.give_back(older.line)
    assert accounts.of(BOB).lines.used == 0


def test_line_of_the_board_is_not_given_beyond_a_share() -> None:
    """The name has none then, as if the board were full; nobody is refused anything for that."""
    accounts, lines, board = accounts_of(), GivenLines(), ThreeLines()
    alice = client_of(accounts, ALICE).lines
    alice.restrict(1, "a rule")
    assert (lines.take(board, alice), lines.take(board, alice)) == (1, 0)
    assert alice.used == 1
    others = [lines.take(board, client_of(accounts, BOB).lines) for _ in range(3)]
    assert others == [2, 3, 0]


class ThreeLines(NoBoard):
    """A board without memory."""

    def __init__(self) -> None:
        self._lines = Lines(4)

    def assign(self, shared: int) -> int:
        return self._lines.share(shared) if shared else self._lines.take()

    def release(self, line: int) -> bool:
        return self._lines.release(line)


def test_what_is_booked_ahead_leaves_half_of_all_free_and_keeps_to_the_limit() -> None:
    accounts = accounts_of()
    share = client_of(accounts, ALICE).bytes
    for used, limit, booked in (
        (1, UNLIMITED, GUARANTEE),
        (GUARANTEE + 1, UNLIMITED, GUARANTEE + 1 + AHEAD),
        (TOTAL // 2 - AHEAD, UNLIMITED, TOTAL // 2),
        (TOTAL // 2 - AHEAD + 1, UNLIMITED, TOTAL // 2),
        (TOTAL // 2 + 1, UNLIMITED, TOTAL // 2 + 1),
        (GUARANTEE + 1, GUARANTEE + 9, GUARANTEE + 9),
        (GUARANTEE + 11, GUARANTEE + 9, GUARANTEE + 11),
    ):
        share.restrict(limit, "a rule")
        share.used = used
        share.book_ahead()
        assert share.booked == accounts.bytes.booked == booked
    share.give(11)
    assert share.booked == accounts.bytes.booked == GUARANTEE


def test_limit_below_the_guarantee_is_kept_and_books_no_more() -> None:
    accounts = accounts_of()
    alice = client_of(accounts, ALICE)
    alice.bytes.restrict(GUARANTEE - 1, "the rule 'small'")
    with pytest.raises(QuotaExceeded, match=f"over the {GUARANTEE - 1} that the rule 'small' gives"):
        alice.charge(GUARANTEE - 1).grow(GUARANTEE)
    assert accounts.bytes.booked == GUARANTEE - 1
    alice.bytes.restrict(UNLIMITED, "")
    assert accounts.bytes.booked == GUARANTEE


def test_many_users_all_connect_and_their_guarantees_shrink_and_grow_again() -> None:
    accounts = Accounts(Totals(TOTAL, files=10_000))
    users = [client_of(accounts, uid) for uid in range(2000, 3000)]
    assert accounts.bytes.guarantee == GUARANTEE // 16
    assert sum(user.bytes.guarantee for user in users) <= accounts.bytes.booked <= TOTAL
    for user in users:
        user.charge(1)
        user.disconnect()
    assert accounts.bytes.guarantee == GUARANTEE // 16
    assert accounts.bytes.booked == sum(max(1, user.bytes.guarantee) for user in users)
    for user in users[1:]:
        user.bytes.give(1)
    assert accounts.bytes.guarantee == GUARANTEE
    with pytest.raises(QuotaExceeded):
        users[0].charge(TOTAL)
    assert users[0].bytes.guarantee == GUARANTEE


def test_guarantees_that_are_not_used_are_shared_with_those_who_come_late() -> None:
    """The first one takes what it can get; then come more than it had to leave room for."""
    accounts = accounts_of()
    client_of(accounts, ALICE).charge(ALONE)
    others = [client_of(accounts, uid) for uid in range(2000, 2000 + 4 * NEWCOMERS)]
    for other in others:
        other.charge(GUARANTEE // 4)
    assert accounts.bytes.used == TOTAL
