// All videos of a pair as one: they start, pause, loop and seek together.

const DRIFT_S = 0.08; // more than that is seen; less is not worth a seek, which stutters
const SEEN_SHARE = 0.9;

function makePlayer(videos, { onTime, onSeen, onState }) {
  let playing = false;
  let timer = 0;
  const usable = () => videos.filter((video) => video.error === null && video.duration > 0);
  const length = () => Math.max(0, ...usable().map((video) => video.duration));
  // The longest leads; shorter ones wait on their last frame for it.
  const leader = () => usable().find((video) => video.duration === length());

  function seekAll(seconds) {
    for (const video of usable()) video.currentTime = Math.min(seconds, video.duration);
  }
  function noteSeen() {
    for (const video of usable()) {
      if (video.currentTime >= SEEN_SHARE * video.duration) onSeen(video);
    }
  }
  function playAll() {
    for (const video of usable()) {
      if (!video.ended) video.play().catch(() => {}); // refused by a browser's power saving: Play
    }
  }
  function align() {
    const lead = leader();
    if (lead === undefined) return;
    onTime(lead.currentTime, lead.duration);
    noteSeen();
    if (!playing) return;
    for (const video of usable()) {
      const wanted = Math.min(lead.currentTime, video.duration);
      if (video !== lead && Math.abs(video.currentTime - wanted) > DRIFT_S) video.currentTime = wanted;
    }
  }
  function restartAtEnd(event) {
    if (event.target !== leader()) return;
    noteSeen();
    seekAll(0);
    if (playing) playAll();
  }
  function setPlaying(wanted) {
    playing = wanted;
    if (playing) playAll();
    else for (const video of videos) video.pause();
    onState(playing);
  }

  for (const video of videos) video.addEventListener("ended", restartAtEnd);
  timer = setInterval(align, 100);
  return {
    toggle: () => setPlaying(!playing),
    play: () => setPlaying(true),
    pause: () => setPlaying(false),
    again: () => { seekAll(0); setPlaying(true); },
    seekShare: (share) => { seekAll(share * length()); align(); },
    setRate: (rate) => { for (const video of videos) video.playbackRate = rate; },
    stop: () => {
      clearInterval(timer);
      for (const video of videos) {
        video.pause();
        video.removeAttribute("src");
        video.load();
      }
    },
  };
}

// Begin together: when every video can play, or has failed, or has taken too long.
function whenReady(videos, most_ms) {
  const each = videos.map((video) => new Promise((resolve) => {
    if (video.readyState >= 3 || video.error !== null) resolve();
    video.addEventListener("canplay", resolve, { once: true });
    video.addEventListener("error", resolve, { once: true });
  }));
  const late = new Promise((resolve) => { setTimeout(resolve, most_ms); });
  return Promise.race([Promise.all(each), late]);
}
