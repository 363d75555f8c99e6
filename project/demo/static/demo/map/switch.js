/**
 * The switch of the simulation, which exists only in development.
 *
 * Owns the button and what it says. While the page is visible it also tells the server that the map is being watched:
 * otherwise the simulation ends after some minutes.
 */

const POLL_MS = 20_000;
const IMPATIENT_MS = 700;
/** A simulation is running within this time, or it has failed. */
const STARTING_MS = 20_000;

export class Switch {
  #form;
  #url;
  #button;
  #timer = 0;
  /** Until when a start is waited for. */
  #startingUntil = 0;
  /** @type {{is_stopping: boolean, vehicles: number, feeds: number, time_lapse: number} | null} */
  #simulation = null;

  /** @param {HTMLFormElement} form @param {string} url */
  constructor(form, url) {
    this.#form = form;
    this.#url = url;
    this.#button = form.querySelector("[data-switch-button]");
  }

  start() {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#act(this.#button.value);
    });
    document.addEventListener("visibilitychange", () => document.hidden || this.#poll());
    this.#poll();
  }

  async #act(action) {
    const body = new FormData(this.#form);
    body.set("action", action);
    this.#button.disabled = true;
    this.#say(action === "start" ? "Starting…" : "Stopping…");
    this.#startingUntil = action === "start" ? performance.now() + STARTING_MS : 0;
    await this.#ask({ method: "POST", body });
  }

  #poll() {
    return this.#ask({});
  }

  async #ask(options) {
    clearTimeout(this.#timer);
    try {
      const response = await fetch(this.#url, { ...options, headers: { accept: "application/json" } });
      if (!response.ok) throw new Error(`the server answers ${response.status}`);
      this.#take((await response.json()).simulation);
    } catch (error) {
      this.#button.disabled = false;
      this.#say(`The switch does not work now: ${error.message}.`);
    }
    const isWaiting = this.#simulation?.is_stopping || this.#startingUntil > 0;
    this.#timer = setTimeout(() => document.hidden || this.#poll(), isWaiting ? IMPATIENT_MS : POLL_MS);
  }

  #take(simulation) {
    this.#simulation = simulation;
    if (simulation !== null) this.#startingUntil = 0;
    const isLate = this.#startingUntil > 0 && performance.now() > this.#startingUntil;
    if (isLate) this.#startingUntil = 0;
    const isBusy = simulation?.is_stopping || this.#startingUntil > 0;
    this.#button.disabled = Boolean(isBusy);
    const isRunning = simulation !== null && !simulation.is_stopping;
    this.#button.value = isRunning ? "stop" : "start";
    this.#button.textContent = isRunning ? "Stop the simulation" : "Start the simulation";
    if (isLate) this.#say("It has not started: see the terminal of make run.");
    else if (simulation?.is_stopping) this.#say("Stopping…");
    else if (isRunning) this.#say(aboutOf(simulation));
    else if (!isBusy) this.#say("Off.");
  }

  #say(text) {
    const said = this.#form.querySelector("[data-switch-said]");
    if (said.textContent !== text) said.textContent = text;
  }
}

function aboutOf({ vehicles, feeds, time_lapse: timeLapse }) {
  const lapse = timeLapse === 1 ? "" : `, ${timeLapse} times as fast as real ones`;
  return `${vehicles.toLocaleString("en")} vehicles in ${feeds} feeds, once a second${lapse}.`;
}
