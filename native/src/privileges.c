/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "privileges.h"

bool privileges_hide(struct refusal *refusal)
{
	struct rlimit none = {0, 0};

	/* May be forbidden by a filter that is in force; what is not dumpable leaves no core
	 * anyway. */
	setrlimit(RLIMIT_CORE, &none);
	return !prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ||
	       refuse(refusal, E_INTERNAL, NULL, "core dumps cannot be switched off: %s",
		      strerror(errno));
}

static bool become(const char *name, struct refusal *refusal)
{
	struct passwd *user = getpwnam(name);

	if (!user)
		return refuse(refusal, E_BAD_REQUEST,
			      "make it with: useradd --system --shell /usr/sbin/nologin NAME",
			      "there is no user %s", name);
	if (setgroups(0, NULL) || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) ||
	    setresuid(user->pw_uid, user->pw_uid, user->pw_uid))
		return refuse(refusal, E_INTERNAL,
			      "start it as root, with CAP_SETUID and CAP_SETGID",
			      "it cannot become the user %s: %s", name, strerror(errno));
	return true;
}

static bool set_capabilities(bool permitted, bool effective)
{
	cap_t wanted = cap_init();
	cap_value_t bpf = CAP_BPF;
	bool good = wanted;

	if (permitted)
		good = good && !cap_set_flag(wanted, CAP_PERMITTED, 1, &bpf, CAP_SET);
	if (effective)
		good = good && !cap_set_flag(wanted, CAP_EFFECTIVE, 1, &bpf, CAP_SET);
	good = good && !cap_set_proc(wanted);
	if (wanted)
		cap_free(wanted);
	return good;
}

static bool maps_work(const struct kernel *kernel)
{
	struct fnm_policy policy;
	struct fnm_address nobody = {{0}};

	return !bpf_map_lookup_elem(kernel->maps.fd[MAP_HOSTS], &nobody, &policy) ||
	       errno == ENOENT;
}

static void drop_bounding_set(void)
{
	/* Needs CAP_SETPCAP, without which no_new_privs has to do. */
	for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
		prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

bool privileges_drop(const struct kernel *kernel, const char *user, bool *kept,
		     struct refusal *refusal)
{
	drop_bounding_set();
	/* Changing the user clears the permitted set, and the maps have to be tried before. */
	prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (user && !become(user, refusal))
		return false;
	*kept = false;
	if (set_capabilities(true, false))
		*kept = !maps_work(kernel);
	if (!set_capabilities(*kept, *kept) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return refuse(refusal, E_INTERNAL, NULL, "capabilities cannot be dropped: %s",
			      strerror(errno));
	if (!maps_work(kernel))
		return refuse(refusal, E_UNSUPPORTED,
			      "sysctl kernel.unprivileged_bpf_disabled=1 or 2 needs Linux 5.19 or "
			      "CAP_BPF; start it as root",
			      "its maps cannot be read without privileges: %s", strerror(errno));
	/* The change of the user made it dumpable again. */
	return privileges_hide(refusal);
}
