/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of a mailbox with its wake-up: src/server/mailbox/ring.c and mailbox_drained, wake of
 * mailbox.c. One statement here is one access to shared memory there.
 *
 * Claims: no message is lost, doubled, torn or overtaken by a later one of its sender; the consumer
 * never sleeps on a ring that is not empty (then no process could go on: an invalid end state).
 *
 * Spin's memory is sequentially consistent. The orders that C must ask for are shown by what goes
 * wrong without them, as the reordering that they forbid:
 *   BROKEN_LOOK_FIRST   the consumer's look at the ring comes before its "asleep" is seen
 *   BROKEN_PEEK_FIRST   the producer's look at asleep comes before its message is seen
 *   BROKEN_EARLY_TURN   the turn is seen before the message's bytes
 *   BROKEN_EARLY_FREE   the cell is seen free before its bytes were read
 *   BROKEN_NO_CLAIM     two producers may claim one position */
#define SIZE 2
#define PRODUCERS 2
#define EACH 2
#define TOTAL (PRODUCERS * EACH)

byte turn[SIZE], low[SIZE], high[SIZE]; /* a message has two words, written one after the other */
byte tail;
bit asleep = 1, event;
byte next_of[PRODUCERS];

inline wake()
{
    if
    :: asleep == 1 ->
        atomic { was = asleep; asleep = 0; }
        if
        :: was == 1 -> event = 1
        :: else
        fi
    :: else
    fi
}

proctype producer(byte me)
{
    byte i = 0, at, lap, seen, mine;
    bit was, peeked;
    do
    :: i < EACH ->
        mine = me * 16 + i;
        at = tail;
look:
        lap = at - at % SIZE;
        seen = turn[at % SIZE];
        if
        :: seen > lap -> at = tail; goto look
        :: seen < lap -> /* full: the sender does something else until that changes */
            turn[at % SIZE] != seen || tail != at;
            at = tail;
            goto look
        :: else
        fi;
#ifdef BROKEN_NO_CLAIM
        tail = at + 1;
#else
        atomic {
            if
            :: tail == at -> tail = at + 1
            :: else -> at = tail; goto look
            fi
        };
#endif
#ifdef BROKEN_PEEK_FIRST
        peeked = asleep;
#endif
#ifdef BROKEN_EARLY_TURN
        turn[at % SIZE] = lap + 1;
#endif
        low[at % SIZE] = mine;
        high[at % SIZE] = mine;
#ifndef BROKEN_EARLY_TURN
        turn[at % SIZE] = lap + 1;
#endif
#ifdef BROKEN_PEEK_FIRST
        if
        :: peeked == 1 -> wake()
        :: else
        fi;
#else
        wake();
#endif
        i++
    :: else -> break
    od
}

proctype consumer()
{
    byte head = 0, a, b, lap;
    bit there;
    do
    :: head < TOTAL ->
        lap = head - head % SIZE;
        if
        :: turn[head % SIZE] == lap + 1 ->
#ifdef BROKEN_EARLY_FREE
            turn[head % SIZE] = lap + SIZE;
#endif
            a = low[head % SIZE];
            b = high[head % SIZE];
#ifndef BROKEN_EARLY_FREE
            turn[head % SIZE] = lap + SIZE;
#endif
            assert(a == b);
            assert(a % 16 == next_of[a / 16]);
            next_of[a / 16]++;
            head++
        :: else ->
            event = 0;
#ifdef BROKEN_LOOK_FIRST
            there = (turn[head % SIZE] == lap + 1);
            asleep = 1;
#else
            asleep = 1;
            there = (turn[head % SIZE] == lap + 1);
#endif
            if
            :: there -> asleep = 0
            :: else -> event == 1 /* sleeps */
            fi
        fi
    :: else -> break
    od;
    assert(next_of[0] == EACH && next_of[1] == EACH)
}

init
{
    atomic {
        run producer(0);
        run producer(1);
        run consumer()
    }
}
