// The film of one pose: from noise to the pose, which may have been minimised after the last step.

const STEP_TIME = 160; // milliseconds

class Player {
  constructor(scene) {
    this.scene = scene;
    this.timer = null;
    this.button = el("button", { type: "button", click: () => (this.timer ? this.stop() : this.play()) });
    this.slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "Step of the trajectory" });
    this.slider.addEventListener("input", () => { this.stop(); this.seek(Number(this.slider.value)); });
    this.output = el("output");
    this.element = el("div", { class: "tools player", hidden: true }, this.button, this.slider, this.output);
    this.stop();
  }

  load(frames, minimised) {
    this.stop();
    if (frames && !this.scene.fits(frames)) frames = null;
    this.frames = frames;
    this.element.hidden = !frames;
    if (!frames) return;
    this.steps = frames.length - (minimised ? 2 : 1);
    this.slider.max = frames.length - 1;
    this.tell(frames.length - 1);
  }

  tell(step) {
    const last = this.frames.length - 1;
    const said = step === 0 ? ", noise" : step < this.steps ? "" : step === last ? ", the pose" : ", as sampled";
    const text = step > this.steps ? "The pose, minimised" : `Step ${step} of ${this.steps}${said}`;
    this.slider.value = step;
    this.output.textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
  }

  seek(step) {
    this.tell(step);
    this.scene.move(step === this.frames.length - 1 ? null : this.frames[step]);
  }

  play() {
    const start = Number(this.slider.value);
    this.seek(start === this.frames.length - 1 ? 0 : start);
    this.scene.zoomProtein();
    this.timer = setInterval(() => {
      const next = Number(this.slider.value) + 1;
      this.seek(next);
      if (next === this.frames.length - 1) this.stop();
    }, STEP_TIME);
    this.button.textContent = "Pause";
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "\u25b6\ufe0e Play trajectory";
  }
}
