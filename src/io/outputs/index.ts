export { checkClaim, claimFolder, type FolderClaim } from "./claim.ts";
export { guardOutputs } from "./guard.ts";
export { checkFolder } from "./inspect.ts";
export { manifestFile } from "./manifest.ts";
export { checkPicture, writePicture } from "./picture.ts";
export { writeFolder } from "./write-folder.ts";
