"""A person opts out: training is off, what waits is given up, the token is dropped."""

from __future__ import annotations

from pocketfl.device import SessionHooks


class StopsAfterBatches(SessionHooks):
    """Stops once so many batches were trained, and keeps the losses that it was told of."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self.losses: tuple[float, ...] = ()

    def trained_batch(self, state) -> None:
        self.losses = state().losses

    def should_stop(self) -> bool:
        return len(self.losses) >= self._batches


def test_opting_out_gives_up_what_waits(make_device, back_end, store):
    """An interrupted session is over, nothing was sent, and nothing is asked of the server again."""
    hooks = StopsAfterBatches(2)
    device = make_device(hooks=hooks)
    assert device.run_once().status == "interrupted"
    assert len(hooks.losses) == 2
    assert device.opt_out("my own decision") == 1
    assert device.pending == ()
    assert back_end.reports == {}
    assert store.database.read_state("enrolment.token") is None
    later = make_device()
    assert later.run_due() == ()
    assert "my own decision" in str(later.explain())
    assert later.opt_out() == 0
    assert store.count("trips") == 20


def test_after_opting_in_again_the_device_enrols_anew(make_device, store):
    """The switch is all that was set: a new token, and a round."""
    device = make_device()
    device.enrol()
    first = store.database.read_state("enrolment.token")
    device.opt_out()
    device.scheduler.switch.enable()
    assert device.run_once().status == "completed"
    assert first is not None
    assert store.database.read_state("enrolment.token") is not None
