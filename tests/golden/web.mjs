// Predicts and trains with a golden plan's graphs in ONNX Runtime for the web: node web.mjs FOLDER < arrays.json
// FOLDER has node_modules/onnxruntime-web; standard input names the files and has their arrays.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const ort = createRequire(process.argv[2] + "/")("onnxruntime-web");
ort.env.wasm.numThreads = 1;

const given = JSON.parse(readFileSync(0, "utf8"));
const open = (file) =>
  ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
const tensor = ({ type, values, shape }) =>
  type === "int64"
    ? new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape)
    : new ort.Tensor("float32", Float32Array.from(values), shape);
const feedOf = (graph) =>
  Object.fromEntries(graph.inputNames.map((name) => [name, tensor(given.arrays[name])]));

const predict = await open(given.predict);
const prediction = (await predict.run(feedOf(predict)))[predict.outputNames[0]];

const session = await open(given.step);
const feed = feedOf(session);

const losses = [];
for (let step = 0; step < given.steps; step++) {
  const result = await session.run(feed);
  losses.push(result.loss.data[0]);
  // What a step makes new, the next one starts from.
  for (const name of session.inputNames) feed[name] = result[`new_${name}`] ?? feed[name];
}
const parameters = Array.from(feed.parameters.data);
console.log(JSON.stringify({ losses, parameters, prediction: Array.from(prediction.data) }));
