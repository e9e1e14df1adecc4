/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a ticket: src/server/mailbox/mailbox.c.
 *
 * An asker with TICKETS tickets asks ASKS times; a responder answers each request once, at any
 * time; the asker may see a ticket expire, cancel it, or take its reply, in any order.
 *
 * Claims: a reply always finds room; each question has exactly one outcome (answered, timed out,
 * cancelled); no question gets the answer to another; in the end all tickets are free.
 *   BROKEN_FREE_ON_EXPIRY   a ticket is free again when it expires, not when its reply came
 *   BROKEN_NO_GENERATION    a number says only which ticket, not which use of it */
#define TICKETS 2
#define ASKS 4
#define FREE 0
#define WAITING 1
#define DEAD 2

byte state[TICKETS], generation[TICKETS], question[TICKETS];
byte outcomes[ASKS];
byte answered;
/* ticket, generation, question */
chan requests = [ASKS] of { byte, byte, byte };
chan replies = [TICKETS] of { byte, byte, byte };

inline outcome(q)
{
    outcomes[q]++;
    assert(outcomes[q] == 1)
}

proctype responder()
{
    byte t, g, q;
    do
    :: requests?t, g, q ->
        assert(nfull(replies)); /* invariant 1 */
        replies!t, g, q;
        answered++
    :: answered == ASKS -> break
    od
}

proctype asker()
{
    byte asked = 0, taken = 0, i, t, g, q;
again:
    do
    :: asked < ASKS ->
        i = 0;
        do
        :: i < TICKETS && state[i] != FREE -> i++
        :: else -> break
        od;
        if
        :: i < TICKETS ->
            state[i] = WAITING;
            question[i] = asked;
            requests!i, generation[i], asked;
            asked++
        :: else -> nempty(replies) || state[0] == WAITING || state[1] == WAITING
        fi
    :: state[0] == WAITING -> i = 0; goto lose
    :: state[1] == WAITING -> i = 1; goto lose
    :: replies?t, g, q ->
        taken++;
        if
#ifdef BROKEN_NO_GENERATION
        :: state[t] == WAITING ->
#else
        :: state[t] == WAITING && generation[t] == g ->
#endif
            assert(question[t] == q);
            outcome(q);
            state[t] = FREE;
            generation[t]++
        :: else ->
            /* In C: found dead and released; not to find it is our bug. */
            assert(state[t] == DEAD && generation[t] == g);
            state[t] = FREE;
            generation[t]++
        fi
    :: taken == ASKS -> break
    od;
    assert(state[0] == FREE && state[1] == FREE);
    i = 0;
    do
    :: i < ASKS -> assert(outcomes[i] == 1); i++
    :: else -> goto done
    od;
lose: /* expired or cancelled */
    outcome(question[i]);
#if defined(BROKEN_FREE_ON_EXPIRY)
    state[i] = FREE;
    generation[i]++;
#elif defined(BROKEN_NO_GENERATION)
    state[i] = FREE;
#else
    state[i] = DEAD;
#endif
    goto again;
done: skip
}

init
{
    atomic {
        run responder();
        run asker()
    }
}
