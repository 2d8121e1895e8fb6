"""Checks: whether a learner keeps the contract of ``learners.base``, by what its class declares.

Check a class of your own as all learners of everlearn are checked::

    from learners.checks import check_learner
    check_learner(MyLearner)

For one test per check, or a learner that is made in its own way::

    @pytest.mark.parametrize("check", checks_for(MyLearner), ids=str)
    def test_my_learner(check):
        check(lambda schema, seed: MyLearner(config, schema, seed))

A check that fails raises an ``AssertionError`` that states the broken promise.

- ``suite`` selects the checks for a class and runs them.
- ``case`` makes small streams and leads a learner through them.
- ``predictions``, ``missing``, ``state``, ``labels``, ``classes`` and ``sums`` hold the checks, by
  subject.
- ``assertions`` holds what they compare.
"""

from __future__ import annotations

from learners.checks.suite import Check, check_learner, checks_for

__all__ = ["Check", "check_learner", "checks_for"]
