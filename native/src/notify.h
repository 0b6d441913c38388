/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd wants to hear: sd_notify(3) without its library. */
#ifndef SYNPROXYD_NOTIFY_H
#define SYNPROXYD_NOTIFY_H

void notify_open(void); /* while sockets may still be opened */
void notify(const char *state);

#endif
