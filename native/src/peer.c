/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "peer.h"

static bool connect_to(int fd, const char *path, struct refusal *refusal)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 5};

	if (strlen(path) >= sizeof(address.sun_path))
		return refuse(refusal, E_BAD_REQUEST, "give a shorter path in --socket",
			      "%s is too long for a Unix socket", path);
	memcpy(address.sun_path, path, strlen(path));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return !connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
	       refuse(refusal, E_INTERNAL,
		      errno == EACCES ? "run it as root" : "is synproxyd running? see its log",
		      "%s: %s", path, strerror(errno));
}

json_t *peer_ask(struct peer *peer, json_t *request, struct refusal *refusal)
{
	char *text = json_dumps(request, JSON_COMPACT);
	json_t *answer = NULL;

	json_decref(request);
	fprintf(peer->stream, "%s\n", text);
	fflush(peer->stream);
	free(text);
	if (getline(&peer->line, &peer->size, peer->stream) > 0)
		answer = json_loads(peer->line, 0, NULL);
	if (!answer) {
		refuse(refusal, E_INTERNAL, "see the log of synproxyd",
		       "synproxyd does not answer");
		return NULL;
	}
	if (json_is_true(json_object_get(answer, "ok")))
		return answer;
	refuse(refusal, E_INTERNAL, NULL, "synproxyd says: %s",
	       json_string_value(json_object_get(answer, "message")));
	json_decref(answer);
	return NULL;
}

bool peer_open(struct peer *peer, const char *path, json_t **hello, struct refusal *refusal)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*peer = (struct peer){0};
	if (fd < 0 || !connect_to(fd, path, refusal)) {
		close(fd);
		return false;
	}
	peer->stream = fdopen(fd, "r+");
	*hello = peer_ask(peer, json_pack("{s:s,s:i}", "op", "hello", "version", 1), refusal);
	return *hello;
}

void peer_close(struct peer *peer)
{
	if (peer->stream)
		fclose(peer->stream);
	free(peer->line);
}
