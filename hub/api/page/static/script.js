// SPDX-License-Identifier: Apache-2.0
// Puts into the page what the hub sends, and says so when it sends nothing any more.
"use strict";

(() => {
  const LATE = 6000;
  const AGAIN = 5000;
  const page = document.documentElement;
  const live = document.getElementById("live");
  // The hub has escaped everything; no other text becomes markup in this page.
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("hub-page", { createHTML: (text) => text })
    : { createHTML: (text) => text };
  const waiting = new Map();
  let source = null;
  let heard = Date.now();
  let said = "";

  function say(text, lost) {
    page.classList.toggle("stale", lost);
    live.classList.toggle("lost", lost);
    if (said !== text) {
      said = text;
      live.textContent = text;
    }
  }

  // What somebody has marked to copy stays until it is no longer marked.
  function isMarked(part) {
    const marked = document.getSelection();
    return marked !== null && !marked.isCollapsed && marked.containsNode(part, true);
  }

  function put(part, text) {
    const open = Array.from(part.querySelectorAll("details[open]"), (one) => one.id);
    const holder = part.contains(document.activeElement) && document.activeElement.closest("details");
    const focused = holder ? holder.id : "";
    part.innerHTML = policy.createHTML(text);
    for (const id of open) {
      const again = document.getElementById(id);
      if (again !== null) again.open = true;
    }
    const again = focused ? document.getElementById(focused) : null;
    if (again !== null) again.querySelector("summary").focus({ preventScroll: true });
  }

  function flush() {
    for (const [id, text] of waiting) {
      const part = document.getElementById(id);
      if (part === null) {
        waiting.delete(id);
      } else if (!isMarked(part)) {
        waiting.delete(id);
        put(part, text);
      }
    }
    say(waiting.size ? "Live; what is marked stands still." : "Live.", false);
  }

  function take(event) {
    const news = JSON.parse(event.data);
    if (news.version !== page.dataset.version) {
      window.location.reload();
      return;
    }
    heard = Date.now();
    for (const [id, text] of Object.entries(news.parts)) {
      if (id === "title") document.title = text;
      else waiting.set(id, text);
    }
    flush();
  }

  function open() {
    heard = Date.now();
    source = new EventSource("page/stream");
    source.onmessage = take;
  }

  function close() {
    if (source !== null) source.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    close();
    if (document.visibilityState === "visible") open();
  });
  document.addEventListener("selectionchange", () => {
    if (waiting.size) flush();
  });
  setInterval(() => {
    if (source === null || Date.now() - heard < LATE) return;
    say("NO CONNECTION TO THE HUB: what stands here is old.", true);
    if (source.readyState === EventSource.CLOSED && Date.now() - heard > LATE + AGAIN) {
      // Refused, not merely cut off: the browser does not try again by itself.
      const since = heard;
      close();
      open();
      heard = since;
    }
  }, 1000);
  open();
})();
