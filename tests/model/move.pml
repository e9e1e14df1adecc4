/* SPDX-License-Identifier: Apache-2.0 */
/* The move of a gateway between thread pairs and SLA processes: src/server/move.h.
 *
 * A gateway says REPORTS numbered reports; each names the newest control that it has. The services
 * that have the gateway send controls numbered 1 .. CONTROLS. The acceptor moves it to the other
 * pair and process and back, while all that goes on. Each thread is a process with one mailbox that
 * keeps the order of each sender (one channel for each sender here, taken in any order), the
 * socket's two directions are channels.
 *
 * The parts: who may read the socket (at inbound[p] or in the baton), what the services know (at
 * services[p] or in the baton), the queue of what is to be written (at outbound[p] or in the baton).
 *
 * Claims: every report is counted once, in order, by whichever services have the gateway; every
 * control reaches the gateway once, in order; no thread meets a message for a part that it does not
 * have; the baton always comes home.
 *   BROKEN_NO_INBOUND    the baton begins at the services: inbound goes on reading meanwhile
 *   BROKEN_WRITER_FIRST  the writing half leaves before the services have let go
 *   BROKEN_READ_EARLY    inbound[to] reads before the services there have imported */
#define REPORTS 3
#define CONTROLS 3
#define MOVES 2

#define REPORT 1
#define CONTROL 2
#define BATON 3

/* What the baton holds, and where the parts are: pair and process are one number here. */
bool reader[2], known[2], writer[2];
byte counted, sent, got; /* reports merged; controls that the services sent; that the gateway has */
byte moved, to;
bool home = true;

chan wire_in = [2] of { byte };   /* socket: gateway to server */
chan wire_out = [2] of { byte };
chan in_services[2] = [4] of { byte, byte };   /* from inbound[p] to services[p] */
chan services_out[2] = [4] of { byte, byte };  /* from services[p] to outbound[p] */
chan out_services[2] = [2] of { byte, byte };  /* outbound[p] to services[p]: the baton, WRITING */
chan out_out[2] = [2] of { byte, byte };       /* to outbound[p] from the other one */
chan services_in[2] = [2] of { byte, byte };   /* services[p] to inbound[p]: UNPACKED */
chan acceptor_in[2] = [2] of { byte, byte };   /* acceptor to inbound[p]: ASKED */
chan acceptor = [2] of { byte };
/* The queue of the writing half travels with it. */
chan queue = [CONTROLS] of { byte };

active proctype gateway()
{
    byte said = 0, c;
end:
    do
    :: said < REPORTS -> said++; wire_in!said
    :: wire_out?c -> assert(c == got + 1); got = c
    od
}

proctype inbound(byte p)
{
    byte r, k;
end:
    do
    :: atomic { reader[p] && nempty(wire_in) && nfull(in_services[p]) ->
        wire_in?r; in_services[p]!REPORT, r }
    :: atomic { acceptor_in[p]?k, r ->
        assert(reader[p]);
        reader[p] = false;
        in_services[p]!BATON, 0 }
    :: atomic { services_in[p]?k, r ->
        assert(!reader[0] && !reader[1]);
        reader[p] = true;
        acceptor!p }
    od
}

inline merge(p, r)
{
    assert(known[p]); /* else it is lost */
    assert(r == counted + 1);
    counted = r
}

proctype services(byte p)
{
    byte k, r;
end:
    do
    :: atomic { in_services[p]?k, r ->
        if
        :: k == REPORT -> merge(p, r)
        :: k == BATON ->
            assert(known[p]);
            known[p] = false;
            services_out[p]!BATON, 0
        fi }
    :: atomic { known[p] && sent < CONTROLS && nfull(services_out[p]) ->
        sent++;
        services_out[p]!CONTROL, sent }
    :: atomic { out_services[p]?k, r ->
        assert(!known[0] && !known[1]);
        known[p] = true;
#ifndef BROKEN_READ_EARLY
        services_in[p]!BATON, 0;
#endif
        skip }
    od
}

proctype outbound(byte p)
{
    byte k, c;
end:
    do
    :: atomic { services_out[p]?k, c ->
        if
        :: k == CONTROL ->
            assert(writer[p]); /* else it is lost, or written by two threads */
            queue!c
        :: k == BATON ->
#ifndef BROKEN_WRITER_FIRST
            assert(writer[p]);
            writer[p] = false;
            out_out[1 - p]!BATON, 0;
#endif
            skip
        fi }
    :: atomic { out_out[p]?k, c ->
        assert(!writer[0] && !writer[1]);
        writer[p] = true;
        out_services[p]!BATON, 0;
#ifdef BROKEN_READ_EARLY
        services_in[p]!BATON, 0;
#endif
        skip }
    :: atomic { writer[p] && nempty(queue) && nfull(wire_out) -> queue?c; wire_out!c }
    od
}

active proctype router()
{
    byte at = 0, p;
end:
    do
    :: atomic { home && moved < MOVES ->
        moved++;
        home = false;
#if defined(BROKEN_NO_INBOUND)
        services_in[1 - at]!BATON, 0; /* never let go of at the old one */
#else
        acceptor_in[at]!BATON, 0;
#endif
#ifdef BROKEN_WRITER_FIRST
        writer[at] = false;
        out_out[1 - at]!BATON, 0;
#endif
        skip }
    :: atomic { acceptor?p -> at = p; home = true }
    od
}

/* When nothing can go on any more all is where it shall be. */
active proctype watch()
{
    timeout ->
    assert(home);
    assert(moved == MOVES);
    assert(counted == REPORTS);
    assert(sent == CONTROLS && got == CONTROLS);
    assert(reader[0] && known[0] && writer[0]); /* there and back */
    assert(!reader[1] && !known[1] && !writer[1])
}

init
{
    atomic {
        reader[0] = true;
        known[0] = true;
        writer[0] = true;
        run inbound(0);
        run inbound(1);
        run services(0);
        run services(1);
        run outbound(0);
        run outbound(1)
    }
}
