/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "address.h"

#define MAPPED_BITS 96

bool is_ipv4(const struct fnm_address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == htonl(0xffff);
}

bool prefix_is_ipv4(const struct fnm_prefix *prefix)
{
	return prefix->bits >= MAPPED_BITS && is_ipv4(&prefix->address);
}

bool prefix_is_host(const struct fnm_prefix *prefix)
{
	return prefix->bits == 128;
}

bool prefix_equal(const struct fnm_prefix *one, const struct fnm_prefix *other)
{
	return !memcmp(one, other, sizeof(*one));
}

void prefix_mask(unsigned int bits, __u32 mask[4])
{
	for (unsigned int i = 0; i < 4; i++, bits -= bits < 32 ? bits : 32)
		mask[i] = bits >= 32 ? 0xffffffff : bits ? htonl(~0u << (32 - bits)) : 0;
}

static bool matches(const struct fnm_prefix *outer, const struct fnm_address *address)
{
	__u32 mask[4];

	prefix_mask(outer->bits, mask);
	for (int i = 0; i < 4; i++)
		if ((address->word[i] ^ outer->address.word[i]) & mask[i])
			return false;
	return true;
}

bool prefix_covers(const struct fnm_prefix *outer, const struct fnm_prefix *inner)
{
	return outer->bits <= inner->bits && prefix_is_ipv4(outer) == prefix_is_ipv4(inner) &&
	       matches(outer, &inner->address);
}

bool parse_address(const char *text, struct fnm_address *address)
{
	struct in_addr ipv4;

	if (inet_pton(AF_INET, text, &ipv4) == 1) {
		*address = (struct fnm_address){{0, 0, htonl(0xffff), ipv4.s_addr}};
		return true;
	}
	/* A mapped address would be a second name for an IPv4 one. */
	return inet_pton(AF_INET6, text, address) == 1 && !is_ipv4(address);
}

static bool parse_bits(const char *text, unsigned int most, unsigned int *bits)
{
	unsigned int value = 0;
	size_t length = strlen(text);

	if (!length || length > 3 || (length > 1 && text[0] == '0'))
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		value = value * 10 + (*text - '0');
	}
	*bits = value;
	return value <= most;
}

static bool host_bits_clear(const struct fnm_prefix *prefix)
{
	__u32 mask[4];

	prefix_mask(prefix->bits, mask);
	for (int i = 0; i < 4; i++)
		if (prefix->address.word[i] & ~mask[i])
			return false;
	return true;
}

bool parse_prefix(const char *text, struct fnm_prefix *prefix)
{
	const char *slash = strchr(text, '/');
	char address[ADDRESS_TEXT];
	unsigned int bits;
	bool ipv4;

	if (!slash || (size_t)(slash - text) >= sizeof(address))
		return false;
	memcpy(address, text, slash - text);
	address[slash - text] = 0;
	if (!parse_address(address, &prefix->address))
		return false;
	ipv4 = is_ipv4(&prefix->address);
	if (!parse_bits(slash + 1, ipv4 ? 32 : 128, &bits))
		return false;
	prefix->bits = ipv4 ? MAPPED_BITS + bits : bits;
	return host_bits_clear(prefix);
}

char *format_address(const struct fnm_address *address, char *text)
{
	if (is_ipv4(address))
		inet_ntop(AF_INET, &address->word[3], text, ADDRESS_TEXT);
	else
		inet_ntop(AF_INET6, address, text, ADDRESS_TEXT);
	return text;
}

char *format_prefix(const struct fnm_prefix *prefix, char *text)
{
	size_t length;

	format_address(&prefix->address, text);
	length = strlen(text);
	snprintf(text + length, ADDRESS_TEXT - length, "/%u",
		 prefix_is_ipv4(prefix) ? prefix->bits - MAPPED_BITS : prefix->bits);
	return text;
}
