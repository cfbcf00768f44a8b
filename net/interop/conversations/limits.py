"""Limits on connections (fact sheet 3.1)."""

from conversation import conversation
import zk


@conversation("limits")
def connections_per_address(ctx):
    # The group allows four connections per address. The harness's own have been closed.
    held = [ctx.connect() for _ in range(4)]
    ctx.step("one-too-many")
    c = ctx.open("fifth")
    c.conn.send_frame(zk.connect_body())
    c.expect_close()
    ctx.step("the-others-are-served")
    for client in held:
        client.drain()
    ctx.step("a-word-counts-as-well")
    ctx.note(repr(zk.four_letter_word(ctx.server.address, "srvr")[:9]))
    ctx.step("room-again-after-a-close")
    held[0].close_session()

    def accepted():
        probe = ctx.open("probe")
        probe.conn.send_frame(zk.connect_body(session=-1))
        answer = probe.conn.read_frame()
        probe.conn.close()
        return answer is not None
    ctx.wait_for("room for a connection", accepted)
