/* SPDX-License-Identifier: Apache-2.0 */
#include "server/app/together.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "server/model/model.h"
#include "server/services/agreement_match.h"
#include "server/services/agreement_sum.h"

#define ERRORS_MAX 4096u

struct set {
    struct agreement *room;
    const struct agreement **all;
    size_t n;
};

static void set_fini(struct set *s)
{
    free(s->room);
    free(s->all);
}

/* All that are stored and can be read, @put in the place of the one of its name. */
static int set_init(struct set *s, const struct agreement *put, const json_t *rows)
{
    size_t i, rooms = json_array_size(rows);
    json_t *row;
    struct text errors;
    *s = (struct set){.room = calloc(rooms + 1, sizeof(*s->room)),
                      .all = calloc(rooms + 1, sizeof(*s->all))};
    if (s->room == NULL || s->all == NULL) {
        set_fini(s);
        return -ENOMEM;
    }
    text_init(&errors, ERRORS_MAX);
    json_array_foreach(rows, i, row)
    {
        struct agreement *a = &s->room[s->n];
        if (model_agreement_parse(json_object_get(row, "document"), a, &errors) < 0)
            continue; /* not in force either */
        if (put != NULL && strcmp(a->name, put->name) == 0)
            continue;
        s->all[s->n++] = a;
    }
    if (put != NULL)
        s->all[s->n++] = put;
    text_fini(&errors);
    return 0;
}

static int beyond_agreements(const struct set *s, const struct agreement *put, struct text *ret)
{
    int found = 0;
    for (size_t i = 0; i < s->n && found == 0; i++) {
        const struct agreement *wide = s->all[i];
        if (wide == put || agreement_includes(wide, put))
            found = agreement_sum_beyond(wide, s->all, s->n, ret);
    }
    return found;
}

static int beyond_tenants(const struct set *s, const struct agreement *put, const json_t *rows,
                          struct tenant *room, struct text *ret)
{
    size_t i;
    json_t *row;
    struct text errors;
    int found = 0;
    text_init(&errors, ERRORS_MAX);
    json_array_foreach(rows, i, row)
    {
        const json_t *doc = json_object_get(row, "document");
        if (found == 0 && model_tenant_parse(doc, room, &errors) == 0 &&
            agreement_of_tenant(put, room))
            found = agreement_sum_beyond_tenant(room, s->all, s->n, ret);
    }
    text_fini(&errors);
    return found;
}

int together_agreement(const struct agreement *put, const json_t *agreements,
                       const json_t *tenants, struct text *ret)
{
    struct set s;
    struct tenant *room = malloc(sizeof(*room)); /* 33 KiB */
    if (room == NULL || set_init(&s, put, agreements) < 0) {
        free(room);
        return -ENOMEM;
    }
    int found = beyond_agreements(&s, put, ret);
    if (found == 0)
        found = beyond_tenants(&s, put, tenants, room, ret);
    set_fini(&s);
    free(room);
    return found > 0 ? WEIR_E_CONFLICT : found;
}

int together_tenant(const struct tenant *put, const json_t *agreements, struct text *ret)
{
    struct set s;
    if (set_init(&s, NULL, agreements) < 0)
        return -ENOMEM;
    int found = agreement_sum_beyond_tenant(put, s.all, s.n, ret);
    set_fini(&s);
    return found > 0 ? WEIR_E_CONFLICT : found;
}
