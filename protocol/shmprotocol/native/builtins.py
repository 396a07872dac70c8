"""The builtins of the compiled module: a call costs a fifth of one through cffi. See `builtins.c`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shmprotocol.native.binding import lib

_functions: dict[str, Callable[..., Any]] = {}
if lib.shm_builtins_install(id(_functions)):
    raise MemoryError("no memory is left for the functions of shmprotocol")

parse_attach = _functions["parse_attach"]
pack_opened = _functions["pack_opened"]
accept_now = _functions["accept_now"]
receive_now, send_now = _functions["receive_now"], _functions["send_now"]
parse_put = _functions["parse_put"]
parse_assign, parse_request = _functions["parse_assign"], _functions["parse_request"]
publish_put = _functions["publish_put"]
identify = _functions["identify"]
write_record, set_record = _functions["write_record"], _functions["set_record"]
make_sealed, make_spare = _functions["make_sealed"], _functions["make_spare"]
pack_published = _functions["pack_published"]
dict_count = _functions["dict_count"]
dict_find = _functions["dict_find"]
dict_records = _functions["dict_records"]
dict_make = _functions["dict_make"]
value_again = _functions["value_again"]
Current = _functions["Current"]
Exporter = _functions["Exporter"]
opened_read = _functions["opened_read"]
flush_late = _functions["flush_late"]

# The fast road of a client, see `lane.c`.
Space = _functions["Space"]
Holding = _functions["Holding"]
Held = _functions["Held"]
Lane = _functions["Lane"]

# Descriptors for the next host, see `kept.c`.
Home, Kept, rest_keeper = _functions["Home"], _functions["Kept"], _functions["rest_keeper"]

# Threads of the host's, see `closing.c`, and `apart.c` for those that have no descriptors.
Closer, Sealer = _functions["Closer"], _functions["Sealer"]
change_name, can_work_apart = _functions["change_name"], _functions["can_work_apart"]

# A thread of a client's, see `filling.c`.
Filler = _functions["Filler"]

# Arenas, see `arena_types.c`.
Ledger = _functions["Ledger"]
HeldValue = _functions["HeldValue"]
ArenaReader = _functions["ArenaReader"]
ArenaOwner = _functions["ArenaOwner"]
Loan = _functions["Loan"]

dlpack_address = _functions["dlpack_address"]

# Arrow data, see `arrow.c` and `arrow_slices.c`.
arrow_address, arrow_pull = _functions["arrow_address"], _functions["arrow_pull"]
arrow_check, arrow_schema = _functions["arrow_check"], _functions["arrow_schema"]
arrow_array, arrow_stream = _functions["arrow_array"], _functions["arrow_stream"]
arrow_offsets, arrow_list_views = _functions["arrow_offsets"], _functions["arrow_list_views"]
arrow_struct = _functions["arrow_struct"]
arrow_dense, arrow_runs = _functions["arrow_dense"], _functions["arrow_runs"]
arrow_views, arrow_type = _functions["arrow_views"], _functions["arrow_type"]
