/** What the process is doing, as far as its end is concerned; one process has one of it. */
export const ending = {
  /** A command is at work that saves before it stops: nobody's ceasing to read what is printed may end it. */
  saves: false,
  /** The process is about to end; what fails on the way is of no interest. */
  leaving: false,
  /** No device computes any more. */
  closed: false,
};
