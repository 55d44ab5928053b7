// The models of the gateway in the order in which people look for them: category, adapter, version.

import { ask } from "./api.js";

export const FREE = "Any prompt"; // category of what has no task in the catalogue, and of bases alone

export async function readModels() {
  const [{ data: models }, { data: tasks }] = await Promise.all([ask("v1/models"), ask("v1/tasks")]);
  const known = new Map(tasks.map((task) => [task.name, task]));
  const bases = models.filter((model) => !model.task).map((model) => model.id);
  const adapters = new Map(); // base/task -> {name, base, task, category, versions}
  for (const model of models.filter((one) => one.task)) {
    const name = `${model.parent}/${model.task}`;
    const category = known.get(model.task)?.category ?? FREE;
    if (!adapters.has(name)) {
      adapters.set(name, { name, base: model.parent, task: model.task, category, inCatalogue: known.has(model.task), versions: [] });
    }
    adapters.get(name).versions.push({ id: model.id, version: model.version, aliases: model.aliases, created: model.created });
  }
  for (const adapter of adapters.values()) adapter.versions.sort(newestFirst);
  const order = [...new Set(tasks.map((task) => task.category)), FREE];
  const used = new Set([...adapters.values()].map((adapter) => adapter.category));
  return {
    bases,
    adapters: [...adapters.values()],
    categories: order.filter((category) => used.has(category) || category === FREE),
    ids: new Set(models.map((model) => model.id)),
  };
}

function newestFirst(a, b) {
  const latest = (one) => Number(one.aliases.includes("latest"));
  return latest(b) - latest(a) || b.created - a.created;
}

// base/task@version in parts.
export function partsOf(id) {
  const [adapter, version] = id.split("@");
  const [base, task] = adapter.split("/");
  return { base, task: task ?? null, version: version ?? null };
}
