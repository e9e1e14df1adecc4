/* SPDX-License-Identifier: Apache-2.0 */
/* The certificates that [control] and [http] name: until when they count, told in time. What does
 * not count already when it is read is told by whoever read the file, with its line. */
#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "server/daemon.h"

#define LOOK_NS (3600 * NS_PER_S)

static int64_t wall_s(void)
{
    return clock_wall_us() / 1000000;
}

static void note_one(struct server_certificate *c, const struct dates *d)
{
    int64_t now_s = wall_s();
    c->dates = *d;
    c->said = dates_hold(d, now_s) ? 0 : dates_step(d, now_s);
    atomic_store(&c->until_s, d->until_s);
}

void certificates_note(struct server *s, const struct dates *control, const struct dates *http)
{
    if (control != NULL)
        note_one(&s->control_certificate, control);
    if (http != NULL)
        note_one(&s->http_certificate, http);
    s->certificates_looked_ns = 0;
}

static void look(struct server_certificate *c, const char *section)
{
    char words[DATES_TEXT];
    int64_t now_s = wall_s();
    unsigned step = dates_step(&c->dates, now_s);
    if (step > c->said)
        log_warning("the certificate of [%s]: %s; put a new one in its place and reload", section,
                    dates_words(&c->dates, now_s, words, sizeof(words)));
    c->said = step;
}

void certificates_watch(struct server *s, uint64_t now_ns)
{
    if (s->certificates_looked_ns != 0 && now_ns - s->certificates_looked_ns < LOOK_NS)
        return;
    s->certificates_looked_ns = now_ns;
    look(&s->control_certificate, "control");
    look(&s->http_certificate, "http");
}

static int may_replace(const struct server_certificate *old, const struct dates *fresh,
                       const char *section, struct text *errors)
{
    char words[DATES_TEXT];
    int64_t now_s = wall_s();
    if (!dates_hold(&old->dates, now_s) || dates_hold(fresh, now_s))
        return 0;
    text_printf(errors,
                "[%s] tls-certificate: %s; expected a certificate that is in date, as the one in "
                "force is\n",
                section, dates_words(fresh, now_s, words, sizeof(words)));
    return WEIR_E_REFUSED;
}

int certificates_may_replace(const struct server *s, const struct dates *control,
                             const struct dates *http, struct text *errors)
{
    int r = may_replace(&s->control_certificate, control, "control", errors);
    return r < 0 ? r : may_replace(&s->http_certificate, http, "http", errors);
}
