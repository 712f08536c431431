/* The theme's icons come from its fonts. Its 1.5 MB that make the same icons by script are not needed: this file takes their place. */
