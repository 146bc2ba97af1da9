"use strict";
const sign = document.getElementById("live");
let due = 0;
const refresh = async () => {
  due = 0;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) { location.reload(); return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.querySelector("main");
    if (main) document.querySelector("main").replaceWith(document.importNode(main, true));
  } catch { sign.textContent = "offline"; }
};
const soon = () => { due = due || setTimeout(refresh, 400); };
const events = new EventSource("/events");
events.onopen = () => { sign.textContent = "live"; sign.className = "good"; };
events.onerror = () => { sign.textContent = "reconnecting"; sign.className = "warn"; };
for (const name of ["entered", "signed", "replaced", "sent", "settled", "failed", "handed_over"])
  events.addEventListener(name, soon);
setInterval(soon, 10000);
