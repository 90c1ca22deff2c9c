import { type SizeShapeName, sizeShapes, writeCheckpoint } from "./checkpoint.ts";

/* npx tsx bench/size/write-checkpoint.ts <100m|0.5b|1b|3b> <folder> */
const [, , name = "", folder = ""] = process.argv;
if (!Object.hasOwn(sizeShapes, name) || folder === "")
  throw new Error(`give a shape (${Object.keys(sizeShapes).join(", ")}) and a folder`);
await writeCheckpoint(folder, sizeShapes[name as SizeShapeName]); // just checked
