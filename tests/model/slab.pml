/* SPDX-License-Identifier: Apache-2.0 */
/* The stack on which blocks of a slab come back: src/server/mailbox/slab.c.
 *
 * The owner lends BLOCKS blocks to two threads, ROUNDS times in all; each gives back what it got by
 * pushing it onto `returned`.
 *
 * Claims: no block is lost, and none is in two places.
 *   BROKEN_SPLIT_TAKE the owner's look and its "empty" are two steps
 *   BROKEN_BLIND_PUSH the push does not look whether the head has changed meanwhile */
#define BLOCKS 3
#define ROUNDS 5
#define NONE 255

byte next_of[BLOCKS];
byte returned = NONE;
byte out[BLOCKS]; /* 1 while somebody else has it */
byte owned;
chan lent = [BLOCKS] of { byte };
bit ended;

proctype returner()
{
    byte b, head;
    bit done;
    do
    :: lent?b ->
        done = 0;
        head = returned;
        do
        :: !done ->
            next_of[b] = head;
#ifdef BROKEN_BLIND_PUSH
            returned = b;
            done = 1
#else
            atomic {
                if
                :: returned == head -> returned = b; done = 1
                :: else -> head = returned
                fi
            }
#endif
        :: else -> break
        od
    :: ended && empty(lent) -> break
    od
}

proctype owner()
{
    byte rounds = 0, b, stack = NONE, n = 0;
    byte mine[BLOCKS];
    mine[0] = 0; mine[1] = 1; mine[2] = 2;
    n = BLOCKS;
    do
    :: n > 0 && rounds < ROUNDS ->
        n--;
        b = mine[n];
        assert(out[b] == 0);
        out[b] = 1;
        lent!b;
        rounds++
    :: returned != NONE ->
#ifdef BROKEN_SPLIT_TAKE
        stack = returned;
        returned = NONE;
#else
        atomic { stack = returned; returned = NONE };
#endif
        do
        :: stack != NONE ->
            assert(out[stack] == 1);
            out[stack] = 0;
            assert(n < BLOCKS);
            mine[n] = stack;
            n++;
            stack = next_of[stack]
        :: else -> break
        od
    :: rounds == ROUNDS && n == BLOCKS -> break
    od;
    ended = 1
}

init
{
    atomic {
        run returner();
        run returner();
        run owner()
    }
}
