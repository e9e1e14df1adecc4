/* SPDX-License-Identifier: Apache-2.0 */
#include "server/services/controls.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"

struct control_update *control_update_new(size_t items)
{
    struct control_update *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return NULL;
    u->item = calloc(items > 0 ? items : 1, sizeof(*u->item));
    if (u->item == NULL) {
        free(u);
        return NULL;
    }
    u->item_count = items;
    return u;
}

int control_update_members(struct control_update *u, size_t i, size_t n)
{
    weir_assert(i < u->item_count);
    weir_assert(u->item[i].member == NULL);
    u->item[i].member = calloc(n > 0 ? n : 1, sizeof(*u->item[i].member));
    if (u->item[i].member == NULL)
        return -ENOMEM;
    u->item[i].member_count = n;
    return 0;
}

void control_update_free(void *update)
{
    struct control_update *u = update;
    if (u == NULL)
        return;
    for (size_t i = 0; i < u->item_count; i++)
        free(u->item[i].member);
    free(u->item);
    free(u);
}
