// Trains with a golden plan's step in ONNX Runtime for the web: node web.mjs FOLDER < arrays.json
// FOLDER has node_modules/onnxruntime-web; standard input names the step's file and has its arrays.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const ort = createRequire(process.argv[2] + "/")("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const given = JSON.parse(readFileSync(0, "utf8"));
const session = await ort.InferenceSession.create(readFileSync(given.step), {
  executionProviders: ["wasm"],
});
const tensor = ({ type, values, shape }) =>
  type === "int64"
    ? new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape)
    : new ort.Tensor("float32", Float32Array.from(values), shape);
const feed = Object.fromEntries(
  session.inputNames.map((name) => [name, tensor(given.arrays[name])]),
);

const losses = [];
for (let step = 0; step < given.steps; step++) {
  const result = await session.run(feed);
  losses.push(result.loss.data[0]);
  // What a step makes new, the next one starts from.
  for (const name of session.inputNames) feed[name] = result[`new_${name}`] ?? feed[name];
}
console.log(JSON.stringify({ losses, parameters: Array.from(feed.parameters.data) }));
