"""The policy of a host that runs: read at its start, and again when it is told to."""

from __future__ import annotations

import logging

from shmhost.core.accounts import Accounts
from shmhost.settings.config import Config
from shmhost.settings.policies import privileged_uids, read_policy
from shmprotocol.errors import InvalidArgument

LOG = logging.getLogger("shmhost")


def apply_policy(config: Config, accounts: Accounts) -> None:
    """Have accounts follow the policy of a config, if it has one. InvalidArgument: that has mistakes."""
    if config.policy:
        policy = read_policy(config.policy, privileged_uids())
        accounts.restrict(policy)
        LOG.info("policy %s: %d rules", config.policy, len(policy.names) + len(policy.limits))


def apply_policy_again(config: Config, accounts: Accounts) -> None:
    """Read the policy again, in the thread of the loop; a file with mistakes changes nothing."""
    try:
        apply_policy(config, accounts)
    except InvalidArgument as error:
        LOG.error("the policy stays as it was: %s", error)
