# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the other parts
# SPDX-License-Identifier: Apache-2.0
#
# Where everything is.

config=/etc/fnm-hub/config.yaml
data=/var/lib/fnm-hub
spool=/var/spool/fnm-hub
units=/etc/systemd/system
notify=/usr/local/bin/fnm-notify
fastnetmon_conf=/etc/fastnetmon.conf
# a link to the folder of the version that runs
current=/opt/fnm-hub
# what the installer itself has to remember; only root may look into it
state=/var/lib/fnm-hub-install
