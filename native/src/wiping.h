/* SPDX-License-Identifier: Apache-2.0 */
/* Makes jansson wipe what it frees: keys come in as JSON strings. */
#ifndef SYNPROXYD_WIPING_H
#define SYNPROXYD_WIPING_H

void wiping_begin(void);

#endif
