"""What looks at pictures and videos and says what is in them: captions, instructions, boxes, masks, depth, edges."""
