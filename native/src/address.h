/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses and prefixes in the form that the data plane knows; IPv4 lies in ::ffff:0:0/96. */
#ifndef SYNPROXYD_ADDRESS_H
#define SYNPROXYD_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "abi.h"

#define ADDRESS_TEXT 56 /* holds a prefix as well */

/* "192.0.2.0/24"; false for anything else, host bits that are set included */
bool parse_prefix(const char *text, struct fnm_prefix *prefix);
bool parse_address(const char *text, struct fnm_address *address);

bool is_ipv4(const struct fnm_address *address);
bool prefix_is_ipv4(const struct fnm_prefix *prefix);
bool prefix_is_host(const struct fnm_prefix *prefix);
bool prefix_equal(const struct fnm_prefix *one, const struct fnm_prefix *other);
/* whether every address of `inner` lies in `outer`; families never lie in each other */
bool prefix_covers(const struct fnm_prefix *outer, const struct fnm_prefix *inner);
void prefix_mask(unsigned int bits, __u32 mask[4]);

/* Each returns `text`, of ADDRESS_TEXT bytes. */
char *format_address(const struct fnm_address *address, char *text);
char *format_prefix(const struct fnm_prefix *prefix, char *text);

#endif
