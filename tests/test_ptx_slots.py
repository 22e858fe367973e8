"""Registers that share a word of the emulation keep their values for as long as they are needed."""

from __future__ import annotations

import pytest
from ptx_run import needs_compiler, run_text

pytestmark = needs_compiler

ALL_ONES = (1 << 32) - 1
# Registers whose lives are over before the test's own begin, in whose words these may come to lie.
EARLIER = "".join(f"mov.u32 %e{k}, {100 + k};\nst.global.u32 [%out], %e{k};\n" for k in range(8))


def run(body: str) -> int:
    """What the body has stored at %out, beside registers that came before."""
    registers = ".reg .b32 %e<8>, %a, %b, %c, %i;\n.reg .pred %p;"
    return run_text(registers, EARLIER + body, outputs=2).words[0] & ALL_ONES


def test_what_nobody_wrote_is_no_other_registers_value() -> None:
    assert run("st.global.u32 [%out], %a;") == ALL_ONES


def test_what_one_way_leaves_unwritten_is_no_other_registers_value() -> None:
    body = """
    setp.ne.u32 %p, %t, 0;
    @!%p bra skip;
    mov.u32 %a, 7;
    skip:
    st.global.u32 [%out], %a;"""
    assert run(body) == ALL_ONES


def test_what_a_predicate_keeps_is_kept_around_a_loop() -> None:
    """%a is read in each iteration and written in the first; then comes %b."""
    body = """
    mov.u32 %i, 0;
    again:
    setp.eq.u32 %p, %i, 0;
    @%p mov.u32 %a, 7;
    st.global.u32 [%out], %a;
    add.u32 %b, %i, 40;
    st.global.u32 [%out + 4], %b;
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 3;
    @%p bra again;"""
    assert run(body) == 7


@pytest.mark.parametrize("times", [1, 3])
def test_what_a_loop_hands_on_is_kept(times: int) -> None:
    """%a is read at the loop's beginning and written before %b, which comes last."""
    body = f"""
    mov.u32 %a, 1;
    mov.u32 %i, 0;
    again:
    add.u32 %c, %a, %a;
    add.u32 %i, %i, 1;
    add.u32 %a, %c, 1;
    setp.lt.u32 %p, %i, {times};
    st.global.u32 [%out], %a;
    mov.u32 %b, 50;
    st.global.u32 [%out + 4], %b;
    @%p bra again;"""
    assert run(body) == 2 ** (times + 1) - 1


def test_what_is_needed_behind_a_loop_is_kept_in_it() -> None:
    body = """
    mov.u32 %a, 9;
    mov.u32 %i, 0;
    again:
    add.u32 %b, %i, 40;
    st.global.u32 [%out], %b;
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 3;
    @%p bra again;
    st.global.u32 [%out], %a;"""
    assert run(body) == 9


def test_what_is_needed_further_up_in_the_text_is_kept() -> None:
    """The text is gone through from its end more than once."""
    body = """
    mov.u32 %a, 9;
    bra last;
    first:
    st.global.u32 [%out], %a;
    ret;
    middle:
    bra first;
    last:
    mov.u32 %b, 40;
    st.global.u32 [%out], %b;
    bra middle;"""
    assert run(body) == 9
