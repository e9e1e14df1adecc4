/* SPDX-License-Identifier: Apache-2.0 */
/* One block holds all of an update: its head, its items, the members of all items. So it is made
 * and freed at one stroke, by whichever threads, from the heap or a slab. */
#include "server/services/controls.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

_Static_assert(_Alignof(struct control_item) <= _Alignof(struct control_update),
               "items may lie behind the head");

size_t control_update_size(size_t items, size_t members)
{
    return sizeof(struct control_update) + items * sizeof(struct control_item) +
           members * STREAM_KEY_SIZE;
}

struct control_update *control_update_place(void *block, size_t items, size_t members,
                                            void (*give)(void *block))
{
    struct control_update *u = block;
    *u = (struct control_update){.item = (struct control_item *)(u + 1),
                                 .item_count = items,
                                 .member_room = members,
                                 .give = give};
    memset(u->item, 0, items * sizeof(*u->item));
    u->member = (char(*)[STREAM_KEY_SIZE])(u->item + items);
    return u;
}

struct control_update *control_update_new(size_t items, size_t members)
{
    void *block = malloc(control_update_size(items, members));
    return block != NULL ? control_update_place(block, items, members, free) : NULL;
}

void control_update_members(struct control_update *u, size_t i, size_t n)
{
    weir_assert(i < u->item_count);
    weir_assert(u->item[i].member == NULL);
    weir_assert(n <= u->member_room);
    u->item[i].member = u->member;
    u->item[i].member_count = n;
    u->member += n;
    u->member_room -= n;
    memset(u->item[i].member, 0, n * STREAM_KEY_SIZE);
}

void control_update_free(void *update)
{
    struct control_update *u = update;
    if (u != NULL)
        u->give(u);
}
