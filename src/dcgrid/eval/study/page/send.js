// The way of the answers out of the browser: to the server the page came from if it collects them,
// into a file, or to the clipboard.

async function findCollector(studyId) {
  if (!location.protocol.startsWith("http")) return false;
  try {
    const reply = await fetch("collector.json", { cache: "no-store" });
    return reply.ok && (await reply.json()).study === studyId;
  } catch {
    return false; // a plain web server: the file it is
  }
}

async function postAnswers(text) {
  const reply = await fetch("answers", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: text,
  });
  if (!reply.ok) throw new Error((await reply.text()).slice(0, 200) || `status ${reply.status}`);
}

function downloadText(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copyText(text, area) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages opened as files may not use the clipboard; an older way may be allowed.
    area.closest("details").open = true;
    area.focus();
    area.select();
    return document.execCommand("copy");
  }
}
