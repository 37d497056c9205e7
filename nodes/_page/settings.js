// The settings that can change while the graph runs.

import { $, make } from "./elements.js";

export class Settings {
  // `command` sends a command to the server and returns its answer.
  constructor(place, command) {
    this.place = place;
    this.command = command;
    this.shape = "";
  }

  // Shows the current settings of the graph, except in the field that has the focus.
  show(graph) {
    this.graph = graph;
    const shape = JSON.stringify(Object.entries(graph.nodes).map(([name, node]) => [name, Object.keys(changeable(node)), graph.control]));
    if (shape !== this.shape) {
      this.shape = shape;
      const groups = Object.entries(graph.nodes).filter(([, node]) => Object.keys(changeable(node)).length).map(([name, node]) => this.group(name, node));
      this.place.replaceChildren(...(groups.length ? groups : [make("p", { className: "none", textContent: "none" })]));
    }
    for (const [name, node] of Object.entries(graph.nodes)) {
      for (const [setting, about] of Object.entries(changeable(node))) {
        const field = $(`set ${name}.${setting}`);
        if (field && field !== document.activeElement) fillField(field, about.value);
      }
    }
  }

  group(name, node) {
    const fields = make("fieldset", { disabled: !this.graph.control });
    fields.append(make("legend", { textContent: name }));
    for (const [setting, about] of Object.entries(changeable(node))) fields.append(this.row(name, setting, about));
    return fields;
  }

  row(node, name, about) {
    const path = `${node}.${name}`;
    const row = make("div", { className: "setting" });
    const output = make("output", {});
    const field = fieldFor(about);
    field.id = `set ${path}`;
    field.show = (value) => { output.textContent = field.type === "range" ? value : ""; };
    field.oninput = () => field.show(field.value);
    field.onchange = async () => {
      const answer = await this.command({ k: "set", setting: path, value: valueOf(field, about) });
      row.classList.toggle("wrong", Boolean(answer.error));
      const now = this.graph.nodes[node]?.settings[name] ?? about; // another browser may have changed it meanwhile
      if (answer.error) fillField(field, now.value);
      else fillField(field, (now.value = answer.value));
    };
    const label = make("label", { textContent: name, htmlFor: field.id });
    row.append(label, field, output, make("small", { textContent: about.about || about.type }));
    fillField(field, about.value);
    return row;
  }
}

function changeable(node) {
  return Object.fromEntries(Object.entries(node.settings).filter(([, about]) => about.changeable));
}

function fieldFor(about) {
  if (about.choices) {
    const select = make("select", {});
    for (const choice of about.choices) select.append(make("option", { textContent: choice, value: JSON.stringify(choice) }));
    return select;
  }
  if (typeof about.value === "boolean") return make("input", { type: "checkbox" });
  if (typeof about.value !== "number" || isOpen(about)) return make("input", { type: "text" });
  const whole = about.type === "int";
  if (about.minimum === null || about.maximum === null) return make("input", { type: "number", step: whole ? 1 : "any" });
  const steps = whole ? 1 : 10 ** Math.floor(Math.log10((about.maximum - about.minimum) / 1000));
  return make("input", { type: "range", min: about.minimum, max: about.maximum, step: steps });
}

// Whether the values of a setting are written as JSON: lists, and settings that may be null.
function isOpen(about) {
  return typeof about.value === "object" || about.type.endsWith(" or null");
}

function fillField(field, value) {
  if (field.type === "checkbox") field.checked = value;
  else field.value = field.tagName === "SELECT" || typeof value === "object" ? JSON.stringify(value) : value;
  field.show(value); // the slider itself only shows the nearest step
}

function valueOf(field, about) {
  if (field.type === "checkbox") return field.checked;
  if (field.tagName === "SELECT") return JSON.parse(field.value);
  if (isOpen(about)) return parsed(field.value);
  return typeof about.value === "number" && field.value ? Number(field.value) : field.value; // an empty field is not 0
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
