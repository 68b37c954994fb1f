"""Plans and runtimes shared by the devices of one process."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pocketfl.device import PlanCache
from pocketfl.errors import PlanSignatureError, RuntimeUnavailableError
from pocketfl.plan import generate_signing_key, public_key_hex

from .conftest import make_plan


@pytest.fixture
def keys(signing_key) -> frozenset[bytes]:
    return frozenset({bytes.fromhex(public_key_hex(signing_key))})


@pytest.fixture
def plans():
    cache = PlanCache(plans=2, idle_runtimes=1)
    yield cache
    cache.close()


def test_a_plan_is_verified_once(plans, plan, keys) -> None:
    """Loading the same bytes again gives the same object, runtimes included."""
    opened = plans.load(plan.data, trusted_keys=keys)
    assert plans.load(plan.data, trusted_keys=keys) is opened
    assert plans.find(plan.sha256, trusted_keys=keys) is opened
    assert opened.policy_hash == plan.manifest.policy_hash


def test_plans_are_found_under_the_keys_that_vouched_for_them(plans, plan, keys) -> None:
    """More or other keys are another question."""
    plans.load(plan.data, trusted_keys=keys)
    other = frozenset({bytes.fromhex(public_key_hex(generate_signing_key()))})
    assert plans.find(plan.sha256, trusted_keys=other) is None
    with pytest.raises(PlanSignatureError):
        plans.load(plan.data, trusted_keys=other)


def test_only_so_many_plans_are_kept(plans, signing_key, keys) -> None:
    """The least recently used goes, and its runtimes with it."""
    made = [make_plan(signing_key, version=str(number)) for number in range(3)]
    first = plans.load(made[0].data, trusted_keys=keys)
    with first.runtime("onnxruntime") as runtime:
        pass
    plans.load(made[1].data, trusted_keys=keys)
    plans.load(made[2].data, trusted_keys=keys)
    assert plans.find(made[0].sha256, trusted_keys=keys) is None
    with pytest.raises(RuntimeError, match="closed"):
        runtime.parameters()


def test_a_runtime_is_reused_but_never_shared(plans, plan, keys) -> None:
    """One after the other borrow the same; two at once get two."""
    opened = plans.load(plan.data, trusted_keys=keys)
    with opened.runtime("onnxruntime") as first:
        with opened.runtime("onnxruntime") as second:
            assert second is not first
        with opened.runtime("onnxruntime") as third:
            assert third is second
    with pytest.raises(RuntimeError, match="closed"):
        first.parameters()  # one idle runtime is kept, no more


def test_a_runtime_that_failed_is_not_lent_again(plans, plan, keys) -> None:
    """Whatever state it is in, nobody else sees it."""
    opened = plans.load(plan.data, trusted_keys=keys)
    with pytest.raises(ZeroDivisionError), opened.runtime("onnxruntime") as failed:
        raise ZeroDivisionError
    with opened.runtime("onnxruntime") as fresh:
        assert fresh is not failed


def test_a_runtime_lent_out_while_the_cache_closes_is_closed_on_return(plans, plan, keys) -> None:
    """Closing leaves nothing behind."""
    opened = plans.load(plan.data, trusted_keys=keys)
    with opened.runtime("onnxruntime") as runtime:
        plans.close()
        assert runtime.parameters().shape == (3,)
    with pytest.raises(RuntimeError, match="closed"):
        runtime.parameters()


def test_a_runtime_that_the_plan_lacks_is_an_error(plans, plan, keys) -> None:
    """With the reason."""
    opened = plans.load(plan.data, trusted_keys=keys)
    with pytest.raises(RuntimeUnavailableError), opened.runtime("tensorflow"):
        pass


def test_threads_do_not_mix_their_parameters(plans, plan, keys) -> None:
    """Each borrower sees what it set, through many steps of others."""
    opened = plans.load(plan.data, trusted_keys=keys)
    mixed = []

    def work(number: int) -> None:
        vector = np.full(3, number, np.float32)
        for _ in range(30):
            with opened.runtime("onnxruntime") as runtime:
                runtime.set_parameters(vector)
                output = runtime.predict({"x": np.zeros((2, 2), np.float32)})["output"]
                if not (output == number).all() or not (runtime.parameters() == vector).all():
                    mixed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []
