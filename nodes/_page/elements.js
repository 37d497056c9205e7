// Find and create elements of the page.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}
