// What becomes the component: it imports the bus, which is there only in WebAssembly.
import { consumer } from "sandpost/component";
import { handle as handler } from "./consumer";

export const handle = consumer(handler);
