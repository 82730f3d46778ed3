// Players that keep together. One clock runs; every video follows it.
//
//   error of a video = where it is less where the clock is
//     a small part of a frame   nothing
//     below a frame             its rate is bent a little, which nobody sees
//     a frame or more           it is sent to the right place
//     it is loading             the clock waits, and so do the others
//
// A video that is shorter than the clock's run holds its last frame.

const PATIENCE_MS = 3000; // a video that loads for longer is left behind
const BEAT_S = 0.02; // between two pictures of a screen, with a little room
const SETTLE_MS = 700; // between two jumps of one video: each costs time, and might cause the next

class Player {
  /** A `<video>` that follows the clock of a `Transport`; of a longer file, a part of it. */
  constructor(video, link, transport, { begin = 0, seconds = Infinity } = {}) {
    this.video = video;
    this.transport = transport;
    this.link = link;
    this.begin = begin;
    this.seconds = seconds;
    this.visible = false;
    this.broken = false;
    this.waitsSince = null;
    this.jumpedAt = -SETTLE_MS;
    this.seen = null;
    video.muted = true;
    video.playsInline = true;
    video.preload = "auto";
    video.addEventListener("loadedmetadata", () => {
      transport.extend(Math.min(video.duration - begin, seconds));
      this.go(transport.position);
    });
    video.addEventListener("error", () => { this.broken = true; });
    // While it seeks, only the last wish counts.
    video.addEventListener("seeked", () => {
      if (this.wish !== undefined) this.go(this.wish);
    });
    this.watchFrames();
  }

  /** Note when frames reach the screen: it tells more than currentTime where decoding is late. */
  watchFrames() {
    if (!this.video.requestVideoFrameCallback) return;
    const note = (now, frame) => {
      // The first frame after a jump began before the place that was jumped to.
      const fresh = this.seen !== null && !this.video.seeking;
      this.seen = { media: frame.mediaTime, at: frame.expectedDisplayTime, fresh };
      this.video.requestVideoFrameCallback(note);
    };
    this.video.requestVideoFrameCallback(note);
  }

  /** Load it only when it comes into view; out of view it rests. */
  show(visible) {
    this.visible = visible;
    if (!visible) this.video.pause();
    else if (!this.video.src) this.video.src = this.link;
    else this.go(this.transport.position);
  }

  get last() {
    const seconds = Math.min(this.video.duration - this.begin, this.seconds);
    return Number.isFinite(seconds) ? Math.max(0, seconds - this.transport.frameTime / 2) : Infinity;
  }

  /** Send it to a place, at most to the middle of its last frame. */
  go(position) {
    if (!this.video.readyState) return;
    if (this.video.seeking) {
      this.wish = position;
      return;
    }
    this.wish = undefined;
    this.seen = null;
    this.video.currentTime = this.begin + Math.min(position, this.last);
  }

  waits(now) {
    if (!this.visible || this.broken) return false;
    // A picture is enough. Waiting for the next one as well may last for ever: a paused video need
    // not fetch it.
    if (!this.video.seeking && this.video.readyState >= 2) this.waitsSince = null;
    else this.waitsSince ??= now;
    return this.waitsSince !== null && now - this.waitsSince < PATIENCE_MS;
  }

  /** Seconds that it is ahead of the clock. */
  drift(position, now, speed) {
    const recent = this.seen?.fresh && now - this.seen.at < (2000 * this.transport.frameTime) / speed;
    if (!recent) return this.video.currentTime - this.begin - position;
    return this.seen.media - this.begin - (position - ((now - this.seen.at) / 1000) * speed);
  }

  follow(position, now, speed) {
    if (!this.visible || this.broken || !this.video.readyState) return;
    if (position >= this.last) {
      this.video.pause();
      if (this.video.currentTime - this.begin < this.last - this.transport.frameTime / 2) this.go(position);
      return;
    }
    const error = this.drift(position, now, speed);
    const far = Math.abs(error) > Math.max(0.9 * this.transport.frameTime, 0.03);
    if (far && now - this.jumpedAt > SETTLE_MS) {
      this.jumpedAt = now;
      this.go(position);
      return;
    }
    // Never slower or faster than by a quarter. Frames reach the screen at its own beat, so what is
    // less than a beat cannot be measured and is left alone.
    const { frameTime } = this.transport;
    const small = Math.abs(error) < BEAT_S * speed + 0.05 * frameTime;
    const bend = small ? 0 : Math.min(0.25, Math.max(-0.25, (-0.4 * error) / frameTime));
    const rate = speed * (1 + bend);
    if (Math.abs(this.video.playbackRate - rate) > 0.02 * speed) this.video.playbackRate = rate;
    if (this.video.paused) this.video.play().catch(() => {}); // paused again before it began
  }

  close() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
  }
}

class Transport {
  /** The clock; `changed` is called with it after every change of frame, or of play and pause. */
  constructor(changed) {
    this.changed = changed;
    this.players = new Set();
    this.playing = false;
    this.speed = 1;
    this.loop = true;
    this.load(1, 1);
  }

  /** Begin with another clip: its frames per second and how many frames it has. */
  load(fps, frames) {
    this.frameTime = 1 / (fps > 0 ? fps : 1);
    this.length = Math.max(1, frames) * this.frameTime;
    this.position = 0;
  }

  /** Run as long as the longest video does. */
  extend(duration) {
    if (!Number.isFinite(duration) || duration <= this.length) return;
    this.length = duration;
    this.changed(this);
  }

  get frames() { return Math.max(1, Math.round(this.length / this.frameTime)); }

  get frame() { return Math.min(this.frames - 1, Math.floor(this.position / this.frameTime + 1e-6)); }

  /** Go to the middle of a frame, where rounding cannot show its neighbour. */
  seekFrame(frame) {
    const inside = Math.min(this.frames - 1, Math.max(0, frame));
    this.seek((inside + 0.5) * this.frameTime);
  }

  seek(position) {
    this.position = position;
    this.atMs = performance.now();
    for (const player of this.players) if (player.visible) player.go(position);
    this.changed(this);
  }

  step(frames) {
    this.pause();
    this.seekFrame(this.frame + frames);
  }

  play() {
    if (this.playing) return;
    if (this.frame >= this.frames - 1) this.seek(0);
    this.playing = true;
    this.atMs = performance.now();
    const tick = (now) => {
      if (!this.playing) return;
      this.tick(now);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    this.changed(this);
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    // Where the pictures stopped differs by a few milliseconds; the middle of the frame does not.
    this.rest();
    this.seekFrame(this.frame);
  }

  rest() {
    for (const player of this.players) player.video.pause();
  }

  tick(now) {
    const passed = Math.max(0, now - this.atMs);
    this.atMs = now;
    if ([...this.players].some((player) => player.waits(now))) {
      this.rest();
      return;
    }
    const before = this.frame;
    // After a stall (another tab was looked at) it goes on where it was.
    this.position += (Math.min(passed, 250) / 1000) * this.speed;
    if (this.position >= this.length) {
      this.end();
      return;
    }
    for (const player of this.players) player.follow(this.position, now, this.speed);
    if (this.frame !== before) this.changed(this);
  }

  end() {
    if (this.loop) {
      this.seek(0);
      return;
    }
    this.position = this.length - this.frameTime / 2;
    this.pause();
  }

  clear() {
    for (const player of this.players) player.close();
    this.players.clear();
  }
}
