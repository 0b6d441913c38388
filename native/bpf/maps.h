/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maps of the data plane and the constants that user space sets before loading.
 *
 * Sizes given here are the smallest; synproxyd sets what it is asked for (a power of two sets) and
 * the mask beside it.
 */
#ifndef FNM_MAPS_H
#define FNM_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

#define FNM_SMALLEST_TABLE 1024

/* read-only data: set once before the program is loaded, so the verifier sees constants */
const volatile __u64 fnm_ms_mult = 4 << 16; /* milliseconds of a jiffy, << 16 */
const volatile __u32 fnm_verify = 0;	    /* 1: drop what has a wrong IPv4 or TCP checksum */
const volatile __u32 fnm_flow4_mask = FNM_SMALLEST_TABLE - 1;
const volatile __u32 fnm_flow6_mask = FNM_SMALLEST_TABLE - 1;
const volatile __u32 fnm_source_mask = FNM_SMALLEST_TABLE - 1;
const volatile __u32 fnm_sighting_mask = FNM_SMALLEST_TABLE - 1;
const volatile __u32 fnm_talker_mask = FNM_SMALLEST_TABLE - 1;
const volatile __u32 fnm_splice_mask = FNM_SMALLEST_TABLE - 1;
const volatile __u32 fnm_splice_idle = 7440; /* s; an open spliced flow unseen so long is over */
const volatile __u32 fnm_partial = 0;	     /* 1: checksums may be left to be completed */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fnm_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SLOTS);
	__type(key, __u32);
	__type(value, struct fnm_slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * FNM_SLOTS);
	__type(key, struct fnm_address);
	__type(value, struct fnm_policy);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FNM_SLOTS);
	__type(key, struct fnm_prefix);
	__type(value, struct fnm_policy);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_PORTSETS);
	__type(key, __u32);
	__type(value, struct fnm_portset);
} portsets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_ACLS);
	__type(key, __u32);
	__type(value, struct fnm_acl);
} acls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SMALLEST_TABLE);
	__type(key, __u32);
	__type(value, struct fnm_flow4_set);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SMALLEST_TABLE);
	__type(key, __u32);
	__type(value, struct fnm_flow6_set);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SMALLEST_TABLE);
	__type(key, __u32);
	__type(value, struct fnm_source_set);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SMALLEST_TABLE);
	__type(key, __u32);
	__type(value, struct fnm_sighting_set);
} sightings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SMALLEST_TABLE);
	__type(key, __u32);
	__type(value, struct fnm_talker_set);
} talkers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct fnm_filter);
} filters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_CEILINGS);
	__type(key, __u32);
	__type(value, __u64);
} ceilings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fnm_splicing);
} splicing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FNM_SMALLEST_TABLE);
	__type(key, __u32);
	__type(value, struct fnm_splice_set);
} splices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FNM_BACKENDS);
	__type(key, struct fnm_backend_key);
	__type(value, struct fnm_backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FNM_HELD);
	__type(key, __u32);
	__type(value, struct fnm_held);
} held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FNM_SLOTS);
	__type(key, __u32);
	__type(value, struct fnm_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fnm_work);
} work SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FNM_RECENT);
	__type(key, __u32);
	__type(value, struct fnm_recent);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} samples SEC(".maps");

#endif
