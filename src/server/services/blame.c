/* SPDX-License-Identifier: Apache-2.0 */
/* Whether holding back helps.
 *
 * Problem. A promise may fail for reasons that no neighbour is guilty of: a device that turned
 * slow, a stall now and then. Cuts that do not help would go on to the floor, and stay there.
 *
 * Model, per storage. An *episode* begins with the first cut: what was asked beyond contracts then
 * (the load), and how badly the promise failed (the ratio). A failing period in which the load is
 * down to LOW_LOAD of that, while the ratio is hardly better, is evidence that the load was not the
 * cause; quiet periods wear evidence away. The load of a period is the larger of it and of the one
 * before: in a stall a closed loop does little, and that is no cut's doing. With ENOUGH of it every
 * throttle of the target is lifted, it is said, and nobody is held back there for SPARE_NS, longer
 * each time. Much more load, or a much worse failure, than the episode had is something else: then
 * the controller has its hands free at once.
 *
 * Invariants: (1) no throttle begins on a target that is spared; (2) evidence counts only while a
 * throttle is in force. */
#include "base/assert.h"
#include "server/services/state.h"

#define LOW_LOAD 0.4
#define STILL_LOADED 0.7
#define HARDLY_BETTER 0.7
#define ENOUGH 4u
#define WORN_PERIODS 20u
#define FORGOTTEN_PERIODS 600u
#define SPARE_NS UINT64_C(60000000000)
#define SPARE_DOUBLINGS 4u
#define OTHER_RATIO 2.0
#define OTHER_LOAD 1.25

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static void give_up(struct services *s, struct storage *t, const struct scene *sc, double load)
{
    struct blame *b = &t->blame;
    uint32_t doublings = b->given_up < SPARE_DOUBLINGS ? b->given_up : SPARE_DOUBLINGS;
    char subject[SUBJECT_SIZE];
    words(subject, sizeof(subject), "target/%s", t->name);
    b->given_up++;
    b->good = 0;
    b->spare_until_ns = s->now_ns + (SPARE_NS << doublings);
    note_event(s, EVENT_WARNING, "not-the-cause", subject,
               "%s fails agreement %s for %s at %.1f times what was promised, as before the others "
               "were held back to %.0f %% of their load: they are not the cause, and are let go "
               "for %llu s",
               t->name, sc->victim->agreed->e.agreement.name, sc->victim->e.key, sc->ratio,
               b->load > 0 ? load / b->load * 100.0 : 0.0,
               (unsigned long long)(SPARE_NS << doublings) / 1000000000u);
    list_for_each(it, &t->streams) {
        struct stream *st = container_of(it, struct stream, in_storage);
        if (st->brake.rate > 0)
            throttle_lift(s, st, "holding it back did not help", "sent");
    }
    weir_assert(t->throttles == 0);
}

/* Whether what fails now is what was given up on. */
static bool is_spared(const struct services *s, struct storage *t, const struct scene *sc,
                      double load)
{
    struct blame *b = &t->blame;
    if (s->now_ns >= b->spare_until_ns)
        return false;
    if (sc->ratio <= OTHER_RATIO * b->ratio && load <= OTHER_LOAD * b->load)
        return true;
    b->spare_until_ns = 0;
    return false;
}

static bool failing(struct services *s, struct storage *t, const struct scene *sc, double load)
{
    struct blame *b = &t->blame;
    if (is_spared(s, t, sc, load))
        return false;
    if (t->throttles == 0) {
        b->load = load;
        b->ratio = sc->ratio;
        b->unhelped = b->good = 0;
        return true;
    }
    if (load >= STILL_LOADED * b->load) { /* nothing was tried yet */
        b->load = larger(b->load, load);
        b->ratio = larger(b->ratio, sc->ratio);
        return true;
    }
    if (load > LOW_LOAD * b->load || sc->ratio < HARDLY_BETTER * b->ratio)
        return true;
    b->unhelped += sc->whole;
    if (b->unhelped < ENOUGH)
        return true;
    give_up(s, t, sc, load);
    return false;
}

bool blame_look(struct services *s, struct storage *t, const struct scene *sc)
{
    struct blame *b = &t->blame;
    double load = larger(sc->surplus, b->last_surplus);
    b->last_surplus = sc->surplus;
    if (sc->victim != NULL)
        return failing(s, t, sc, load);
    b->good += sc->whole;
    if (sc->whole && b->good % WORN_PERIODS == 0 && b->unhelped > 0)
        b->unhelped--;
    if (b->good >= FORGOTTEN_PERIODS)
        b->given_up = 0;
    return true;
}
